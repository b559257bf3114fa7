"""Weights of a model folder as params, and params as the tensors of a folder: each is the other backwards."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub.config import Described, described, sized
from jaxpref.models.hub.family import SCORE, Family
from jaxpref.models.hub.lazy import LazyArray, stacked, wrapped
from jaxpref.models.hub.tensors import Tensor, leaf
from jaxpref.models.weights import check_shapes, shapes
from jaxpref.trees import flat, nested
from jaxpref.types import Params

__all__ = ["file_tensors", "halves", "hf_weights", "leaf_shapes", "rows_of"]

_FLOATS = ("float32", "bfloat16", "float16", "float64")


def hf_weights(
    path: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    vocab: int | None = None,
    ignore: Sequence[str] = (),
) -> Params:
    """Params of the model in a folder of the hub, as lazy arrays: what is asked for is read then.

    Args:
      dtype: what floats are cast to as they are read; None keeps the file's.
      vocab: rows of embedding and head, if another number than the file's. Added rows are the mean of the
        file's, summed in float32: the logit of such a token is the mean of all logits, so that m of them take
        at most log(1 + m / n) nats from n others, and its input is an ordinary one. *Differs from*
        transformers 5, which draws them around that mean. Rows beyond `vocab` are left out.
      ignore: see `hf_sizes`.

    Returns:
      The tree of `Transformer(hf_sizes(path), outputs=hf_outputs(path))`; of it, `sharding.put_params` reads
      only the slices that the devices of this process hold.

    Raises:
      ValueError: as `hf_sizes`; a tensor is missing, unknown or of another shape than the configuration says.

    Example:
      `Experiment(weights=partial(hf_weights, path="SmolLM2-135M"), ...)`, whose policy has
      `sizes=partial(hf_sizes, path="SmolLM2-135M")`.
    """
    if dtype is not None and dtype not in _FLOATS:
        raise ValueError(f"hf_weights.dtype: expected one of {_FLOATS} or None, got {dtype!r}")
    folder = described(path, ignore=ignore)
    tensors = _checked(folder, path)
    leaves: dict[str, LazyArray] = {}
    for tensor in rows_of(folder.family, folder.sizes, folder.outputs):
        parts = [tensor.read(folder.sizes, tensors[name]) for name in tensor.names(folder.sizes)]
        for i, target in enumerate(tensor.leaves):
            leaves[target] = _stacked([part[i] for part in parts], target) if tensor.stacked else parts[0][i]
    if dtype is not None:
        leaves = {name: x.astype(jnp.dtype(dtype)) for name, x in leaves.items()}
    if vocab is not None:
        tables = {"embedding", "unembedding"} & leaves.keys()
        leaves |= {name: _resized(leaves[name], vocab) for name in tables}
    params = nested(leaves)
    check_shapes(params, sized(folder.sizes, vocab), path, folder.outputs)
    return params


def file_tensors(family: Family, params: Params, sizes: TransformerSizes) -> Iterator[tuple[str, LazyArray]]:
    """The tensors of a folder by name, layer after layer; lazy, so that none is made before it is written.

    Heads whose neighbours rotate together (GGUF, llama2.c) are brought into the order of the hub, halves.
    """
    leaves = flat(params)
    if sizes.rope_style == "interleaved":
        leaves |= {name: halves(leaves[name], sizes) for name in _rotating(leaves)}
    rows = rows_of(family, sizes, leaves["head"].shape[1] if "head" in leaves else 0)
    for tensor in (one for one in rows if not one.stacked):
        yield tensor.name, tensor.written(sizes, [wrapped(leaves[name]) for name in tensor.leaves])
    for i in range(sizes.layers):
        for tensor in (one for one in rows if one.stacked):
            arrays = [leaf(leaves[name], i) for name in tensor.leaves]
            yield tensor.name.format(i), tensor.written(sizes, arrays)


def leaf_shapes(sizes: TransformerSizes, outputs: int = 0) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of params by dotted name."""
    return {name: tuple(x.shape) for name, x in flat(shapes(sizes, outputs)).items()}


def rows_of(family: Family, sizes: TransformerSizes, outputs: int = 0) -> list[Tensor]:
    """The rows of a family's table that a model of these sizes has; ValueError where one is missing."""
    there = flat(shapes(sizes, outputs))
    rows = [tensor for tensor in (*family.tensors, SCORE) if set(tensor.leaves) <= there.keys()]
    if left := there.keys() - {name for tensor in rows for name in tensor.leaves}:
        raise ValueError(f"a {family.model_type} has no {min(left)}; these sizes are of another family")
    return rows


def _checked(folder: Described, path: object) -> Mapping[str, LazyArray]:
    """The folder's tensors, if they are those of the configuration, and of the shapes it says."""
    family, sizes, tensors = folder.family, folder.sizes, folder.tensors
    if tensors is None:
        raise ValueError(f"{path}: a configuration without weights; fetch the *.safetensors, too")
    of_params = leaf_shapes(sizes, folder.outputs)
    rows = rows_of(family, sizes, folder.outputs)
    expected = {name: tensor.shape(sizes, of_params) for tensor in rows for name in tensor.names(sizes)}
    if missing := [name for name in expected if name not in tensors]:
        raise ValueError(
            f"{path}: {len(missing)} tensors that its configuration asks for are missing, such as "
            f"{missing[0]}; fetch the folder again, or correct config.json"
        )
    buffers = {name.format(i) for name in family.buffers for i in range(sizes.layers)}
    buffers |= set() if folder.outputs else {family.head}  # where it is the embedding once more
    if unknown := sorted(tensors.keys() - expected.keys() - buffers):
        raise ValueError(
            f"{path}: {len(unknown)} tensors that no {family.model_type} of this configuration has, such as "
            f"{unknown[0]}; it is another model, and leaving them out would change what it computes"
        )
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise ValueError(
                f"{path}: {name} has shape {list(tensors[name].shape)}, by config.json {list(shape)}"
            )
        if not jnp.issubdtype(tensors[name].dtype, jnp.floating):
            raise ValueError(f"{path}: {name} has dtype {tensors[name].dtype}; weights are floats")
    return tensors


def _stacked(layers: list[LazyArray], target: str) -> LazyArray:
    dtypes = sorted({str(x.dtype) for x in layers})
    if len(dtypes) > 1:
        raise ValueError(f"{target} has layers of dtypes {', '.join(dtypes)}, which one array cannot hold")
    return stacked(layers)


def _resized(table: LazyArray, vocab: int) -> Any:
    if vocab <= len(table):
        return table.rows(slice(0, vocab))
    old = table[:]
    mean = old.astype(np.float32).mean(0).astype(old.dtype)
    return np.concatenate([old, np.broadcast_to(mean, (vocab - len(old), len(mean)))])


def _rotating(leaves: Mapping[str, Any]) -> list[str]:
    parts = ("query.weight", "query.bias", "key.weight", "key.bias", "query_norm.scale", "key_norm.scale")
    return [f"blocks.attention.{part}" for part in parts if f"blocks.attention.{part}" in leaves]


def halves(array: Any, sizes: TransformerSizes) -> LazyArray:
    """Stacked `[layers, ..., heads * head_dim]`, of each head the even coordinates before the odd ones."""
    width, turning = sizes.head_dim, sizes.rotary_dim
    order = np.concatenate([np.arange(0, turning, 2), np.arange(1, turning, 2), np.arange(turning, width)])
    heads = np.arange(0, array.shape[-1], width)
    columns = (heads[:, None] + order).reshape(-1)
    return stacked([leaf(array, i).T.rows(columns).T for i in range(sizes.layers)])
