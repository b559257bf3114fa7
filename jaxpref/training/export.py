"""What a run has trained, as a folder of the hub."""

import os

import jax

from jaxpref.models.hub import write_folder
from jaxpref.models.merging import merged
from jaxpref.models.transformer import Transformer
from jaxpref.training.context import RunContext
from jaxpref.types import Params

__all__ = ["SHARD_BYTES", "export_params", "exportable", "plain_params"]

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

    Adapters are folded into the weights below them.

    Args:
      params: of the run's policy, as its checkpoints have them (`training.params.trained_params`).
      directory: a new or an empty folder.
      like: the folder that the run started from, whose tokenizer, template and settings go with the weights.
      dtype: what floats are cast to; None keeps theirs.

    Raises:
      ValueError: the policy is no language model that such folders hold; there are several
        processes; or as `models.hub.write_folder`.
    """
    model = _model(run)
    write_folder(
        plain_params(run, params),
        model.sizes,
        directory,
        like=like,
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
    )


def exportable(run: RunContext) -> bool:
    """Whether its policy is a language model, which folders of the hub hold."""
    model = run.policy.model
    return isinstance(model, Transformer) and not model.outputs


def plain_params(run: RunContext, params: Params) -> Params:
    """With the base that adapters are above, and the adapters folded into it."""
    model = _model(run)
    return run.whole(params) if model.lora is None else merged(run.whole(params), model.lora)


def _model(run: RunContext) -> Transformer:
    name, model = run.experiment.name, run.policy.model
    if not isinstance(model, Transformer):
        raise ValueError(f"{name}: its policy is no transformer, and no folder of the hub holds another kind")
    if model.outputs:
        raise ValueError(
            f"{name} is a reward model: folders of the hub have no common form for its head (outputs="
            f"{model.outputs}), so it is used from its run (`training.models.trained_model`)"
        )
    if jax.process_count() > 1:
        raise ValueError(
            "export runs as one process: checkpoints of any mesh can be read by one (mesh.data=1 ...)"
        )
    return model
