"""What a run has trained, as a folder of the hub."""

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxpref.algorithms.members import average_of
from jaxpref.models.hub import hf_end_ids, write_adapter, write_folder
from jaxpref.models.merging import merged
from jaxpref.models.quantized import floats, formats
from jaxpref.models.transformer import Transformer
from jaxpref.training.context import RunContext
from jaxpref.trees import flat
from jaxpref.types import Params

__all__ = [
    "SHARD_BYTES",
    "export_adapter",
    "export_params",
    "exportable",
    "passing_folder",
    "plain_params",
]

SHARD_BYTES = 5_000_000_000  # of tensors in one file, as transformers writes


def export_params(
    run: RunContext,
    params: Params,
    directory: str | os.PathLike[str],
    *,
    like: str | os.PathLike[str] | None = None,
    dtype: str | None = None,
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes params of a run as a folder that transformers reads, whole or not at all.

    Adapters are folded into the weights below them: of a quantised base, into the floats that it stands for.

    Args:
      params: of the run's policy, as its checkpoints have them (`training.params.trained_params`).
      directory: a new or an empty folder.
      like: the folder that the run started from, whose tokenizer, template and settings go with the weights;
        None: what ends a response is all that does. That is always what ended the run's own.
      dtype: what floats are cast to; None keeps theirs.

    Raises:
      ValueError: the policy is no language model that such folders hold; there are several
        processes; or as `models.hub.write_folder`.
    """
    model, ends = _model(run), list(run.policy.end_ids)
    with passing_folder({}, {"eos_token_id": ends[0] if len(ends) == 1 else ends}) as said:
        write_folder(
            plain_params(run, params),
            model.sizes,
            directory,
            like=like or said,
            end_ids=() if like is None or _end_ids(like) == set(ends) else ends,
            dtype=dtype,
            max_shard_bytes=max_shard_bytes,
        )


def _end_ids(folder: str | os.PathLike[str]) -> set[int]:
    try:
        return set(hf_end_ids(folder))
    except ValueError:  # it says none
        return set()


def export_adapter(
    run: RunContext,
    params: Params,
    directory: str | os.PathLike[str],
    *,
    like: str | os.PathLike[str] | None = None,
) -> None:
    """Writes what a run trained above its base as a folder of PEFT, whole or not at all.

    That are the adapters, the head of a reward model (as a sequence classifier's), and the weights that
    `adapted(train=)` names; of an ensemble, their average, of all ranks together. `models.hub.peft_adapter`
    reads them back bit for bit.

    Args:
      params: of the run's policy, as its checkpoints have them (`training.params.trained_params`).
      directory: a new or an empty folder.
      like: the folder of the base; None: the adapter says the name of none.

    Raises:
      ValueError: the policy is no transformer, or has no adapters; there are several processes; or as
        `models.hub.write_adapter`.
    """
    model = _transformer(run)
    if model.lora is None:
        raise ValueError(
            f"{run.experiment.name} has no adapters, so there is nothing that PEFT could read; leave "
            "--adapter out, which writes the whole model"
        )
    params = average_of(run.policy, params)
    trained = {name for name in flat(params) if name.rpartition(".")[2] not in run.policy.adds}
    every = _every(run, params, "the adapters were trained above its values, not above what PEFT loads")
    write_adapter(every, model.lora, model.sizes, directory, trained=trained, like=like)


def exportable(run: RunContext) -> bool:
    """Whether its policy is a language model, which folders of the hub hold."""
    model = run.policy.model
    return isinstance(model, Transformer) and not model.outputs


@contextlib.contextmanager
def passing_folder(files: Mapping[str, str], config: Mapping[str, Any]) -> Iterator[pathlib.Path]:
    """A folder like those of the hub, while the block runs, of all that a model has beside its weights.

    Args:
      files: name -> text.
      config: fields of config.json; those that name tokens are in generation_config.json, too.
    """
    settings = {name: value for name, value in config.items() if name.endswith("_token_id")}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
        (folder / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
        (folder / "generation_config.json").write_text(
            json.dumps(settings, indent=2) + "\n", encoding="utf-8"
        )
        yield folder


def plain_params(run: RunContext, params: Params) -> Params:
    """With the base that adapters are above, and the adapters folded into it; of an ensemble, the average.

    Of a quantised base these are the floats that it stands for, since the adapters were trained above those:
    the policy's own logits, not those of the adapters above the weights that were quantised.
    """
    model = _model(run)
    every = _every(run, average_of(run.policy, params), "what is written are its values as floats")
    plain = every if model.lora is None else merged(every, model.lora)
    # Weights that were trained beside adapters are wider than those of the base.
    dtype = jnp.dtype(model.param_dtype)
    return jax.tree.map(lambda x: x if x.dtype == dtype else x.astype(dtype), plain)


def _every(run: RunContext, params: Params, quantised: str) -> Params:
    """The base and what was trained, all as floats. `quantised`: what to say where the base was not."""
    every = run.whole(params)
    if kinds := formats(every):
        run.files.log(f"the base is quantised ({', '.join(kinds)}): {quantised}")
        every = floats(every, jnp.dtype(_transformer(run).param_dtype))
    return every


def _model(run: RunContext) -> Transformer:
    """The language model that a run trains."""
    model = _transformer(run)
    if model.outputs:
        raise ValueError(
            f"{run.experiment.name} is a reward model: folders of the hub have no common form for its head "
            f"(outputs={model.outputs}), so it is used from its run (`training.models.trained_model`), or "
            "written with --adapter, where it has adapters"
        )
    return model


def _transformer(run: RunContext) -> Transformer:
    name, model = run.experiment.name, run.policy.model
    if not isinstance(model, Transformer):
        raise ValueError(f"{name}: its policy is no transformer, and no folder of the hub holds another kind")
    if jax.process_count() > 1:
        raise ValueError(
            "export runs as one process: checkpoints of any mesh can be read by one (mesh.data=1 ...)"
        )
    return model
