"""The small chat model beside this file, which `finetune.py` runs on where no model is given.

It counts: "Count up from 12 to 15." is answered by "12 13 14 15". Half of the conversations that it learns
from have a slip in the reply, so it slips as often when it is sampled, and there is something for
preferences to mend. The folder `tiny_chat/` has what a folder of a model hub has (config.json,
model.safetensors in bfloat16, tokenizer.json, a chat template) and, in four forms, conversations to
fine-tune on. All of it is of our making: `files()` writes the tokenizer and the conversations, the two
commands below the model.

Paper     none: a toy of our own.
Run       jaxpref train experiments/tiny_chat.py
          jaxpref export experiments/tiny_chat.py --like experiments/tiny_chat --dtype bfloat16 --to FOLDER
          (both from the root of the checkout)
Change    num_steps=400 slips=0.0
Cost      about 190 CPU seconds.
Expect    with seed 0 the model answers 0.975 [0.932, 0.991] of 200 held-out questions right, greedily; of 40
          that `finetune.py` holds out, sampled, 0.375 [0.240, 0.532].
"""

import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from jaxpref.algorithms import sft
from jaxpref.algorithms.optimizers import adamw, warmup_cosine
from jaxpref.data import Records, Tokenizer, hf_template, hf_tokenizer
from jaxpref.data.records import Example
from jaxpref.data.text.boundary import stable_group
from jaxpref.data.text.dialogue import conversation_ids
from jaxpref.evals import generation
from jaxpref.experiment import Experiment, Stage
from jaxpref.models.sizes import tiny
from jaxpref.policies.transformer import transformer

FOLDER = pathlib.Path("experiments/tiny_chat")  # from the root of the checkout
_SLIPS = (1, 1, -1)  # numbers too many or too few, as often as the model makes them: it counts too far
_BOTH = (1, -1)  # in what is learned from neither the longer nor the shorter reply is the better one
_QUESTION = re.compile(r"Count (up|down) from (\d+) to (\d+)\.")


def experiment(
    *, slips: float = 0.5, num_examples: int = 16_384, num_steps: int = 1000, seed: int = 0
) -> Experiment:
    """Supervised fine-tuning from scratch."""
    records = partial(conversations, num_examples=num_examples, slips=slips)
    held_out = partial(conversations, num_examples=200, slips=0.0, part="held_out")
    return Experiment(
        name="tiny_chat",
        policy=partial(
            transformer,
            sizes=partial(tiny, vocab=320, embed=64, layers=2, heads=4, kv_heads=2, mlp=176),
            eos_id=2,
        ),
        tokenizer=tokenizer,
        stages=(
            Stage(
                name="sft",
                algorithm=partial(
                    sft, optimizer=partial(adamw, schedule=partial(warmup_cosine, peak=3e-3, warmup_steps=50))
                ),
                train=records,
                evaluation=held_out,
                evaluators=(
                    partial(generation, records=held_out, checker=right, max_tokens=24, name="counts"),
                ),
                num_steps=num_steps,
                batch_size=64,
            ),
        ),
        seed=seed,
    )


def tokenizer() -> Tokenizer:
    return hf_tokenizer(str(FOLDER))


def right(prompt: str, response: str) -> float:
    """1 for the right numbers to the last question of a conversation, else 0."""
    questions = _QUESTION.findall(prompt)
    return float(bool(questions) and response.strip() == answer(*questions[-1]))


def answer(direction: str, start: str, stop: str) -> str:
    """The numbers from `start` to `stop`."""
    step = 1 if direction == "up" else -1
    return " ".join(map(str, range(int(start), int(stop) + step, step)))


def _slip(text: str, generator: np.random.Generator, kinds: Sequence[int] = _SLIPS) -> str:
    """The same numbers with one too many, or one too few."""
    numbers = text.split()
    if kinds[int(generator.integers(len(kinds)))] < 0:
        return " ".join(numbers[:-1])
    step = int(numbers[1]) - int(numbers[0])
    return " ".join([*numbers, str(abs(int(numbers[-1]) + step))])


def _questions(num_examples: int, part: str, seed: int) -> Iterator[tuple[str, str, np.random.Generator]]:
    """Questions with their right answers; the two parts share no question, whatever the seed."""
    generator, given = np.random.default_rng(seed), 0
    while given < num_examples:
        low, length = int(generator.integers(0, 90)), int(generator.integers(2, 7))
        ends = (low, low + length - 1)
        direction = ("up", "down")[generator.integers(2)]
        start, stop = map(str, ends if direction == "up" else ends[::-1])
        question = f"Count {direction} from {start} to {stop}."
        if (stable_group(question) % 10 == 0) == (part == "held_out"):
            given += 1
            yield question, answer(direction, start, stop), generator


def conversations(*, num_examples: int, slips: float, part: str = "train", seed: int = 0) -> Records:
    """Questions with one reply each (k = 1), a share `slips` of which is wrong."""
    loaded, template = tokenizer(), hf_template(str(FOLDER))
    examples = []
    for question, text, generator in _questions(num_examples, part, seed):
        reply = _slip(text, generator) if generator.random() < slips else text
        prompt = conversation_ids(loaded, template, _messages("user", question))
        examples.append(Example(prompt, [[*loaded.encode(reply), loaded.eos_id]], stable_group(question)))
    return Records.from_examples(examples, {"source": {"kind": "tiny_chat", "part": part, "seed": seed}})


def _messages(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def rows(kind: str, num_examples: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Conversations to fine-tune on: "pairs", "labelled", "lists" or "conversations"."""
    for question, text, generator in _questions(num_examples, "train", seed):
        prompt, wrong = _messages("user", question), _slip(text, generator, _BOTH)
        if kind == "pairs":
            replies = [_messages("assistant", reply) for reply in (text, wrong)]
            yield {"prompt": prompt, "chosen": replies[0], "rejected": replies[1]}
        elif kind == "labelled":
            label = bool(generator.integers(2))
            yield {
                "prompt": prompt,
                "completion": _messages("assistant", text if label else wrong),
                "label": label,
            }
        elif kind == "lists":
            others = dict.fromkeys([wrong, _slip(text, generator, _BOTH), f"{text} {text}"])
            replies = [text, *(other for other in others if other != text)]
            yield {
                "prompt": prompt,
                "responses": [_messages("assistant", reply) for reply in replies],
                "scores": [_share_right(reply, text) for reply in replies],
            }
        else:
            yield {"messages": [*prompt, *_messages("assistant", text)]}


def _share_right(reply: str, text: str) -> float:
    given, wanted = reply.split(), text.split()
    same = sum(a == b for a, b in zip(given, wanted, strict=False))
    return round(same / max(len(given), len(wanted)), 3)


def files(folder: str | pathlib.Path = FOLDER) -> None:
    """Writes the tokenizer and the conversations."""
    _bytes_and_words(pathlib.Path(folder) / "tokenizer.json")
    for kind, num_examples in (("pairs", 400), ("labelled", 200), ("lists", 200), ("conversations", 200)):
        lines = [json.dumps(row) + "\n" for row in rows(kind, num_examples)]
        (pathlib.Path(folder) / f"{kind}.jsonl").write_text("".join(lines))


def _bytes_and_words(path: pathlib.Path) -> None:
    """Byte-pair encoding in which each number below 100 and each word of the task is one token: 320 ids."""
    from tokenizers import Tokenizer as Tokens
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokens: Any = Tokens(models.BPE())
    by_byte = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), by_byte])
    tokens.decoder = decoders.ByteLevel()
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=control, initial_alphabet=alphabet, show_progress=False
    )
    texts = [f"Count {direction} from {i} to {i}." for direction in ("up", "down") for i in range(100)]
    tokens.train_from_iterator(
        texts + ["system\nuser\nassistant\n", "Answer with numbers alone."] * 50, trainer
    )
    tokens.save(str(path))
