"""What `finetune.py` is put together from: which data feed which loss, the policy, and the stages."""

import contextlib
import dataclasses
import difflib
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import optax
from _adapter_start import Quantize, trained_as
from _rates import ADAPTER_FACTOR, rate_of
from tiny_chat import FOLDER

from jaxpref import losses
from jaxpref.algorithms import offline, online, sft
from jaxpref.algorithms.inputs import QUANTITIES, inputs_of
from jaxpref.algorithms.optimizers import adamw, warmup_cosine
from jaxpref.data import Records, hf_template, hf_tokenizer, reply_end
from jaxpref.data.prepare import (
    chosen_only,
    jsonl_labelled,
    jsonl_lists,
    jsonl_messages,
    jsonl_pairs,
)
from jaxpref.data.sources import count_rows, read_rows
from jaxpref.data.text.templates.sources import has_template
from jaxpref.evals import list_agreement, reward_accuracy
from jaxpref.experiment import Stage
from jaxpref.judges import Judge, reward_judge
from jaxpref.kernels.token_logps import KL
from jaxpref.methods import METHODS, Method
from jaxpref.models.hub import hf_end_ids, hf_sizes, hf_weights
from jaxpref.models.lora import LoRA
from jaxpref.policies.adapted import adapted
from jaxpref.policies.base import Model, Policy
from jaxpref.policies.transformer import transformer
from jaxpref.selection import two_samples
from jaxpref.training.models import trained_model
from jaxpref.trees import flat
from jaxpref.types import Params

Kind = Literal["pairs", "labelled", "lists", "messages"]
Optimizer = Callable[[], optax.GradientTransformation]

READERS: dict[Kind, Callable[..., Records]] = {
    "pairs": jsonl_pairs,
    "labelled": jsonl_labelled,
    "lists": jsonl_lists,
    "messages": jsonl_messages,
}
_WORDS: dict[Any, str] = {
    "pairs": "pairs (chosen, rejected)",
    "labelled": "single responses with a label",
    "lists": "lists of responses with scores",
    "messages": "conversations without a preference",
}
_GIVEN = {"example_ids", "labels", "scores"}  # no column of the file, or one of its kind


def method_named(name: str) -> Method:
    """Raises ValueError for a name that is in no table, with those that are near."""
    for method in METHODS:
        if method.name == name:
            return method
    near = difflib.get_close_matches(name, [m.name for m in METHODS], n=4, cutoff=0.5)
    raise ValueError(
        f"method: no loss is called {name!r}{'; near: ' + ', '.join(near) if near else ''}; `jaxpref "
        "methods` lists them all, and online_dpo is known beside them"
    )


def kind_of(method: Method) -> Kind | None:
    """What records a loss reads: pairs, labelled responses, lists; None: any.

    Raises ValueError for one that reads what no file of these has, such as samples or a third response.
    """
    inputs = inputs_of(method.loss)
    for i in inputs:
        if i.sampled or (i.response or 0) > 1:
            raise ValueError(
                f"method={method.name} reads {i.name}, which no file of pairs, labels or lists has; `jaxpref "
                f"methods {method.name}` says where it comes from"
            )
    bases = {i.base for i in inputs}
    if "labels" in bases:
        return "labelled"
    if any(i.base in ("scores", "ratings") and i.response is None for i in inputs):
        return "lists"
    return "pairs" if any(i.response is not None for i in inputs) else None


def columns_of(method: Method) -> set[str]:
    """Columns that the file must have for it, beside those of its kind."""
    inputs = inputs_of(method.loss)
    beyond = {i.base for i in inputs} - QUANTITIES.keys() - _GIVEN
    beyond |= {i.base for i in inputs if i.base == "scores" and i.response is not None}
    return beyond | ({"preferences"} if any(i.base == "pair_preferences" for i in inputs) else set())


def check_feeds(method: Method, kind: Kind, columns: set[str], data: str) -> None:
    """Raises ValueError unless a file of this kind, with these columns, can feed the loss."""
    wanted, others = kind_of(method), ", ".join(_fed_by(kind))
    if wanted is not None and wanted != kind:
        raise ValueError(
            f"method={method.name} learns from {_WORDS[wanted]}, and {data} has {_WORDS[kind]}; choose a "
            f"method of those ({others}) or give other data"
        )
    for missing in sorted(columns_of(method) - columns):
        raise ValueError(
            f"method={method.name} reads {missing!r} of each row, and {data} has no such column; add it, or "
            f"choose another method of {_WORDS[kind]} ({others})"
        )


def _fed_by(kind: Kind) -> list[str]:
    """The methods that need nothing but records of this kind."""
    names = ["sft"]
    for method in METHODS:
        with contextlib.suppress(ValueError):
            if kind_of(method) == kind and not columns_of(method):
                names.append(method.name)
    return names


def example_for(method: str) -> str:
    """Conversations beside this file that the method can learn from."""
    kind = "pairs" if method in ("sft", "online_dpo") else kind_of(method_named(method)) or "pairs"
    return str(FOLDER / f"{kind}.jsonl")


def checked_loss(method: str, kind: Kind, path: str, beta: float | None) -> Callable[..., Any]:
    """The loss, once the data are known to feed it."""
    entry = method_named("dpo" if method == "online_dpo" else method)
    if method != "online_dpo":
        check_feeds(entry, kind, set(next(iter(read_rows(path)))[2]), path)
    if beta is None:
        return entry.loss
    if "beta" not in entry.hyper_parameters:
        raise ValueError(
            f"beta: method={method} has none; it has {', '.join(entry.hyper_parameters) or 'no parameter'}, "
            f"set by stages.{method}.algorithm.loss.NAME=VALUE"
        )
    return partial(entry.loss, beta=beta)


def policy_of(
    folder: str,
    loss: Callable[..., Any],
    lora: LoRA | None,
    train: str | None,
    compute_dtype: str | None,
    remat: str,
    quantize: Quantize = (None, None),
) -> tuple[Callable[[], Policy], Callable[[], Params] | None]:
    """The policy, and the weights that it starts from where all of them are trained."""
    weights, frozen = partial(hf_weights, path=folder), lora is not None or train is not None
    dtype = str(jnp.result_type(*{leaf.dtype for leaf in flat(weights()).values()}))
    policy = partial(
        transformer,
        sizes=partial(hf_sizes, path=folder),
        eos_id=hf_end_ids(folder, _reply_end(folder)),
        param_dtype=dtype if frozen else "float32",
        # Gradients of float16 would need a scale of the loss, which is not here.
        compute_dtype=compute_dtype or ("float32" if dtype == "float16" else dtype),
        remat=remat,
        outputs=outputs_of(loss),
    )
    if frozen:
        above = partial(adapted, policy=policy, base=weights, lora=lora, train=train)
        if any(quantize):
            above = partial(above, quantize=quantize[0], quantize_tile=quantize[1])
        return above, None
    if any(quantize):
        raise ValueError(
            f"quantize={quantize[0]}: all weights are trained (lora_rank=0), and none can be quantised"
        )
    return policy, weights


def _reply_end(folder: str) -> int:
    """What ends a reply in the model's template, which the files of base models may not name."""
    tokenizer = hf_tokenizer(folder)
    return reply_end(tokenizer, hf_template(folder)) if has_template(folder) else tokenizer.eos_id


def outputs_of(loss: Callable[..., Any]) -> int:
    """Of the head that a loss reads: 1 for rewards; 0: it reads none."""
    return int(any(i.base in ("rewards", "embeddings") for i in inputs_of(loss)))


def scored_policy(*, model: str, run: str) -> Policy:
    """The policy of a reward model that this file has trained, in `run`."""
    had = trained_as(run)
    if not had.outputs:
        raise ValueError(f"judge={run}: that run trained no reward model; give one of method=bradley_terry")
    return policy_of(model, losses.bradley_terry, had.lora, had.train, None, "none", had.quantize)[0]()


def judge_of(*, policy: Callable[[], Policy]) -> Judge:
    return reward_judge(policy())


def reward_model(*, policy: Callable[[], Policy], run: str) -> Model:
    """The reward model of a run of this file with method=bradley_terry."""
    return trained_model(policy=policy, workdir=run, stage=trained_as(run).stage)


def check_asked(method: str, sft_steps: int, judge: str | None) -> None:
    """Raises ValueError for what the method would not use, and for a judge that it lacks."""
    if method == "sft" and sft_steps:
        raise ValueError(
            f"sft_steps={sft_steps} is for a stage before another method; of method=sft say steps="
        )
    if judge is not None and method != "online_dpo":
        raise ValueError(f"judge={judge}: method={method} asks no judge; method=online_dpo does")
    if judge is None and method == "online_dpo":
        raise ValueError(
            "method=online_dpo needs judge=RUN: train one first, `jaxpref train experiments/finetune.py ... "
            "method=bradley_terry workdir=RUN`"
        )


@dataclasses.dataclass(frozen=True)
class Stages:
    """What all stages share: records, of what kind, their schedule, and how replies are shown."""

    parts: tuple[Callable[[], Records], Callable[[], Records]]
    kind: Kind
    stage: Callable[..., Stage]
    answers: Callable[..., Any]

    def sft(self, num_steps: int, optimizer: Optimizer, microbatches: int) -> Stage:
        imitated = {"pairs": chosen_only, "lists": chosen_only, "labelled": desirable}.get(self.kind)
        train, held_out = (
            part if imitated is None else partial(imitated, records=part) for part in self.parts
        )
        return self.stage(
            name="sft",
            algorithm=partial(sft, optimizer=optimizer, microbatches=microbatches),
            train=train,
            evaluation=held_out,
            evaluators=(self.answers,),
            num_steps=num_steps,
        )

    def offline(
        self, num_steps: int, method: str, loss: Callable[..., Any], optimizer: Optimizer, microbatches: int
    ) -> Stage:
        entry, inputs = method_named(method), inputs_of(loss)
        train, held_out = self.parts
        evaluators = () if any(i.base in ("rewards", "embeddings") for i in inputs) else (self.answers,)
        return self.stage(
            name=method,
            algorithm=partial(
                offline,
                loss=loss,
                optimizer=optimizer,
                reference="initial" if any(i.reference or i.base in KL for i in inputs) else None,
                loss_state=entry.state,
                microbatches=microbatches,
            ),
            train=train,
            evaluation=held_out,
            evaluators=(*evaluators, *self._compared(held_out)),
            num_steps=num_steps,
        )

    def online(
        self,
        num_steps: int,
        loss: Callable[..., Any],
        optimizer: Optimizer,
        judge: Callable[[], Judge],
        judged: Callable[[], Model],
        max_tokens: int,
        microbatches: int,
    ) -> Stage:
        """Two replies of the policy to each prompt, the better one by the judge chosen (arXiv:2402.04792)."""
        train, held_out = self.parts
        return self.stage(
            name="online_dpo",
            algorithm=partial(
                online,
                loss=loss,
                optimizer=optimizer,
                sample_from=({"policy": 1.0},) * 2,
                judge=judge,
                models={"judge": judged},
                select=two_samples,
                max_tokens=max_tokens,
                microbatches=microbatches,
            ),
            train=train,
            evaluation=held_out,
            evaluators=(self.answers, *self._compared(held_out)),
            num_steps=num_steps,
        )

    def _compared(self, held_out: Callable[[], Records]) -> tuple[Callable[..., Any], ...]:
        """What looks at the order of held-out responses, where there are several."""
        compared = {"pairs": reward_accuracy, "lists": list_agreement}.get(self.kind)
        return () if compared is None else (partial(compared, records=held_out),)


def desirable(*, records: Callable[[], Records]) -> Records:
    """The responses whose label is 1."""
    table = records()
    return table.take(np.asarray(table.columns["labels"])[:, 0] == 1)


def optimizer(
    method: str, num_steps: int, *, learning_rate: float | None, adapters: bool, toy: bool
) -> Optimizer:
    """AdamW with a tenth of the steps as warm-up and cosine decay, as alignment-handbook has it; at the rate
    of the method, ten times that for adapters."""
    peak = (
        rate_of(method).value * (ADAPTER_FACTOR if adapters else 1.0)
        if learning_rate is None
        else learning_rate
    )
    if toy and learning_rate is None:
        peak = 1e-3  # ours: a model of 100,000 weights learns nothing at rates for billions
    return partial(adamw, schedule=partial(warmup_cosine, peak=peak, warmup_steps=num_steps // 10))


def passes(path: str, epochs: float, batch_size: int) -> int:
    rows = count_rows(path)
    if rows is None:  # an array of JSON, or a file that says what is wrong with it as it is read
        rows = sum(1 for _ in read_rows(path))
    return max(1, round(rows * epochs / batch_size))


def buckets(length: int) -> tuple[int, ...]:
    """Padded lengths: powers of two from 64 on."""
    return (*(n for n in (64, 128, 256, 512, 1024, 2048, 4096, 8192) if n < length), length)
