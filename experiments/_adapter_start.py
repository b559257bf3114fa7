"""What `finetune.py adapter=DIR` begins with: the adapters of a folder of PEFT, or of another run of it."""

import logging
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from jaxpref.models.hub import peft_adapter, peft_weights
from jaxpref.models.hub.config import read_json
from jaxpref.models.lora import LoRA
from jaxpref.models.quantized import Format
from jaxpref.policies.base import Policy
from jaxpref.training.models import run_params
from jaxpref.types import Params

_logger = logging.getLogger("jaxpref.models")
_PEFT = "adapter_config.json"
Quantize = tuple[Format | None, int | None]  # and inputs that share a scale


class Asked(NamedTuple):
    """What was asked for; None: nothing was."""

    lora_rank: int | None
    lora_alpha: float | None
    lora_dropout: float | None
    train: str | None


class Start(NamedTuple):
    """What is trained, and how the params that it starts from are loaded for a policy."""

    lora: LoRA | None
    train: str | None
    weights: Callable[[Callable[..., Policy]], Callable[[], Params] | None]


def start_of(path: str | None, asked: Asked, *, folder: str, other_base: bool, outputs: int) -> Start:
    """New adapters, or those of `path`: a folder of PEFT or the workdir of a run.

    Args:
      folder: of the model that they are above.
      outputs: of the policy's head.

    Raises:
      ValueError: `path` is neither, has a head of other outputs, or was trained with other settings than
        those that are asked for.
    """
    if path is None:
        if other_base:
            raise ValueError("adapter_other_base is for adapter=RUN; leave it out")
        rank, alpha, dropout, train = asked
        for name, value in (("lora_alpha", alpha), ("lora_dropout", dropout)):
            if rank == 0 and value is not None:
                raise ValueError(f"{name}={value}: lora_rank=0 has no adapters; leave one of the two out")
        given = {"rank": rank, "alpha": alpha, "dropout": dropout}
        more: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        lora = None if rank == 0 else LoRA(**more)
        return Start(lora, train, lambda policy: None)
    begun = _of_peft if (pathlib.Path(path) / _PEFT).is_file() else _of_run
    start = begun(path, folder, other_base, outputs)
    lora = start.lora
    theirs = (0, None, None) if lora is None else (lora.rank, lora.alpha, lora.dropout)
    for name, given, own in zip(Asked._fields, asked, (*theirs, start.train), strict=True):
        if given is not None and given != own:
            raise ValueError(f"{name}={given}: the adapters of {path} have {own}; leave {name} out")
    return start


def _of_peft(path: str, folder: str, other_base: bool, outputs: int) -> Start:
    if other_base:
        raise ValueError(
            "adapter_other_base is for adapters of a run, whose base is known; folders of PEFT do not say "
            "which weights were below theirs, so nothing is compared: leave it out"
        )
    adapter = peft_adapter(path, base=folder)
    _check_head(path, adapter.outputs, outputs)
    load = partial(peft_params, adapter=path, base=folder)
    return Start(adapter.lora, adapter.train, lambda policy: load)


def _of_run(path: str, folder: str, other_base: bool, outputs: int) -> Start:
    if not (pathlib.Path(path) / "experiment.json").is_file():
        raise ValueError(
            f"adapter={path}: neither a folder of PEFT ({_PEFT}) nor the workdir of a run of finetune.py "
            "(experiment.json)"
        )
    had = trained_as(path)
    if had.lora is None:
        raise ValueError(f"adapter={path}: that run trained no adapters; give what it left as model=")
    _check_head(path, had.outputs, outputs)
    load = partial(run_params, workdir=path, stage=had.stage, other_base=other_base)
    return Start(
        had.lora,
        had.train,
        lambda above: partial(load, policy=partial(with_outputs, policy=above, outputs=had.outputs)),
    )


class Trained(NamedTuple):
    """What a run of finetune.py trained, as its experiment.json has it."""

    lora: LoRA | None
    train: str | None
    quantize: Quantize
    outputs: int
    stage: str  # the last one


def trained_as(path: str) -> Trained:
    """Raises ValueError where `path` is no workdir of such a run."""
    if not (pathlib.Path(path) / "experiment.json").is_file():
        raise ValueError(f"{path}: not the workdir of a run of finetune.py (it has no experiment.json)")
    recorded = read_json(pathlib.Path(path) / "experiment.json")["config"]
    above, stage = recorded["policy"], recorded["stages"][-1]["name"]
    inner, lora = above.get("policy", above), above.get("lora")
    return Trained(
        None if lora is None else LoRA(**{name: _hashable(value) for name, value in lora.items()}),
        above.get("train"),
        (above.get("quantize"), above.get("quantize_tile")),
        inner["outputs"],
        stage,
    )


def with_outputs(*, policy: Callable[..., Policy], outputs: int) -> Policy:
    """A policy of `adapted` with another head."""
    inner = policy.keywords["policy"]  # type: ignore[attr-defined]
    return policy(policy=partial(inner, outputs=outputs))


def peft_params(*, adapter: str, base: str) -> Params:
    """The params of a folder of PEFT; says that nothing shows whether they belong above this base."""
    named = read_json(pathlib.Path(adapter) / _PEFT).get("base_model_name_or_path")
    _logger.warning(
        "%s: adapters of PEFT, whose base is known by its name alone (%r): whether they were trained above "
        "the weights of %s could not be compared",
        adapter,
        named,
        base,
    )
    return peft_weights(adapter, base=base)


def _check_head(path: str, theirs: int, ours: int) -> None:
    if theirs not in (0, ours):
        raise ValueError(
            f"adapter={path} has a head of {theirs} outputs and this method trains "
            f"{'none' if not ours else f'one of {ours}'}: it is a reward model's; give adapters of a policy"
        )


def _hashable(value: Any) -> Any:
    return tuple(_hashable(item) for item in value) if isinstance(value, list) else value
