"""Preferences in a file of your own: supervised fine-tuning, then DPO, of a small model from scratch.

The file is JSON lines, a JSON array (either may be gzipped) or Parquet; `own_data.jsonl` beside this file is
one to copy from (400 pairs of our making: count as asked, or otherwise). What its columns are called is
said by `prompt`, `system` and the like; what becomes of each row is printed before anything trains and is in
the report (jaxpref/data/README.md has the whole list). A tenth of the prompts is held out. Bytes are the
tokens, so any language will do; with a model from elsewhere, give its weights and tokenizer as
`dpo_hh_small.py` does.

`lists` reads scored responses (list MLE: the best first), `labelled` single responses with a label (KTO).

Paper     Rafailov et al. (2023), arXiv:2305.18290; lists: its App. A.3; labels: Ethayarajh et al. (2024),
          arXiv:2402.01306.
Run       jaxpref train experiments/own_data.py
          jaxpref train experiments/own_data.py path=pairs.jsonl workdir=runs/mine
          jaxpref train experiments/own_data.py path=pairs.jsonl prompt=question
          jaxpref train experiments/own_data.py path=pairs.jsonl prompt=none    (chosen and rejected share it)
          jaxpref train experiments/own_data.py:lists path=lists.json
          jaxpref train experiments/own_data.py:labelled path=labels.parquet
Change    beta=0.3 prompt_length=512 response_length=256 truncate_prompt=turns sft_steps=1000
Ablation  jaxpref sweep experiments/own_data.py:sweep_losses path=pairs.jsonl
Try       jaxpref train experiments/own_data.py --smoke
Cost      70 CPU seconds; time goes with tokens.
Expect    With the file as it is, seed 0: of 41 held-out pairs 0.927 [0.806, 0.975] have the chosen response
          ahead, where the longer response is no guide (0.500 [0.349, 0.651]).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from jaxpref import losses
from jaxpref.algorithms import offline, sft
from jaxpref.algorithms.optimizers import adamw, warmup_cosine
from jaxpref.data import Records, bytes_tokenizer
from jaxpref.data.prepare import chosen_only, jsonl_labelled, jsonl_lists, jsonl_pairs, split
from jaxpref.evals import generation, list_agreement, reward_accuracy
from jaxpref.experiment import Experiment, Stage
from jaxpref.models.sizes import tiny
from jaxpref.policies.transformer import transformer

EXAMPLE = "experiments/own_data.jsonl"  # from the root of the checkout


def experiment(
    *,
    path: str = EXAMPLE,
    prompt: str | None = "prompt",
    chosen: str = "chosen",
    rejected: str = "rejected",
    system: str | None = "system",
    repeated_prompt: Literal["refuse", "remove", "keep"] = "refuse",
    prompt_length: int = 128,
    response_length: int = 64,
    truncate_prompt: Literal["start", "end", "turns", "drop"] = "start",
    sft_steps: int = 200,
    steps: int = 100,
    beta: float = 0.1,
    seed: int = 0,
) -> Experiment:
    """Pairs, and DPO."""
    records = partial(
        jsonl_pairs,
        path=path,
        tokenizer=bytes_tokenizer,
        prompt_length=prompt_length,
        response_length=response_length,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        system=system,
        repeated_prompt=repeated_prompt,
        truncate_prompt=truncate_prompt,
    )
    loss = partial(losses.dpo, beta=beta)
    return _two_stages("own_pairs", records, chosen_only, loss, reward_accuracy, sft_steps, steps, seed)


def _read(
    *,
    name: str,
    reader: Callable[..., Records],
    imitated: Callable[..., Records],
    loss: Callable[..., Any],
    accuracy: Callable[..., Any] | None,
    path: str,
    prompt: str = "prompt",
    system: str | None = "system",
    prompt_length: int = 128,
    response_length: int = 64,
    sft_steps: int = 200,
    steps: int = 100,
    beta: float = 0.1,
    seed: int = 0,
) -> Experiment:
    records = partial(
        reader,
        path=path,
        tokenizer=bytes_tokenizer,
        prompt_length=prompt_length,
        response_length=response_length,
        prompt=prompt,
        system=system,
    )
    return _two_stages(name, records, imitated, partial(loss, beta=beta), accuracy, sft_steps, steps, seed)


def desirable(*, records: Callable[[], Records]) -> Records:
    """The responses whose label is 1."""
    table = records()
    return table.take(np.asarray(table.columns["labels"])[:, 0] == 1)


lists = partial(
    _read,
    name="own_lists",
    reader=jsonl_lists,
    imitated=chosen_only,  # the best of each list
    loss=losses.list_mle,
    accuracy=list_agreement,
)
labelled = partial(
    _read, name="own_labels", reader=jsonl_labelled, imitated=desirable, loss=losses.kto, accuracy=None
)


def sweep_losses(
    *, path: str = EXAMPLE, prompt: str | None = "prompt", seeds: tuple[int, ...] = (0, 1, 2)
) -> list[Experiment]:
    """DPO and IPO with each of the seeds: two lines in the report."""
    runs = []
    for loss in (losses.dpo, losses.ipo):
        for seed in seeds:
            run = experiment(path=path, prompt=prompt, seed=seed)
            *before, last = run.stages
            algorithm = partial(last.algorithm, loss=loss)  # pyright: ignore[reportCallIssue]
            runs.append(replace(run, stages=(*before, replace(last, algorithm=algorithm))))
    return runs


def _two_stages(
    name: str,
    records: Callable[[], Records],
    imitated: Callable[..., Records],
    loss: Callable[..., Any],
    accuracy: Callable[..., Any] | None,
    sft_steps: int,
    steps: int,
    seed: int,
) -> Experiment:
    """`imitated` picks what the first stage learns from; `accuracy` evaluates the second."""
    train, held_out = (partial(split, records=records, part=part) for part in ("train", "held_out"))
    answers = partial(generation, records=held_out, max_tokens=48, num_prompts=16, name="samples")
    evaluators = (answers,) if accuracy is None else (answers, partial(accuracy, records=held_out))
    stage = partial(Stage, batch_size=16, evaluate_every=50, checkpoint_every=100)
    optimizer = partial(warmup_cosine, warmup_steps=20)
    return Experiment(
        name=name,
        policy=partial(
            transformer,
            sizes=partial(tiny, vocab=260, embed=128, layers=3, heads=4, kv_heads=4, mlp=384),
            eos_id=2,
        ),
        tokenizer=bytes_tokenizer,
        stages=(
            stage(
                name="sft",
                algorithm=partial(sft, optimizer=partial(adamw, schedule=partial(optimizer, peak=3e-3))),
                train=partial(imitated, records=train),
                evaluation=partial(imitated, records=held_out),
                evaluators=(answers,),
                num_steps=sft_steps,
            ),
            stage(
                name="preferences",
                algorithm=partial(
                    offline, loss=loss, optimizer=partial(adamw, schedule=partial(optimizer, peak=3e-4))
                ),
                train=train,
                evaluation=held_out,
                evaluators=evaluators,
                num_steps=steps,
            ),
        ),
        seed=seed,
        arxiv=("2305.18290",),
    )
