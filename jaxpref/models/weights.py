"""What the readers of weight files share: a complete tree of the right shapes, or one clear error."""

import functools
from typing import Any

import jax
import numpy as np

from jaxpref.models.architecture import TransformerSizes
from jaxpref.types import Params

__all__ = ["check_shapes", "parameter_count", "shapes"]


def shapes(sizes: TransformerSizes, outputs: int = 0) -> Any:
    """The tree of `params` with a `jax.ShapeDtypeStruct` in place of each array; allocates nothing.

    `outputs`: of a head, see `Transformer`.
    """
    return jax.tree.map(lambda x: x, _shapes(sizes, outputs))  # a tree of the caller's own


@functools.lru_cache(maxsize=64)
def _shapes(sizes: TransformerSizes, outputs: int) -> Any:
    from jaxpref.models.transformer import Transformer  # with layers, which take half a second to import

    return jax.eval_shape(Transformer(sizes, outputs=outputs).init, jax.random.key(0))


def parameter_count(sizes: TransformerSizes) -> int:
    """Number of weights; a tied unembedding counts once."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes(sizes)))


def check_shapes(params: Params, sizes: TransformerSizes, source: object, outputs: int = 0) -> None:
    """Raises ValueError naming the first array that is missing, unexpected or misshapen for `sizes`."""

    def flat(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in leaves}

    expected, given = flat(shapes(sizes, outputs)), flat(params)
    for name in sorted(expected.keys() | given.keys()):
        if expected.get(name) != given.get(name):
            raise ValueError(
                f"{source}: params{name} should have shape {expected.get(name, 'none (no such array)')}, got "
                f"{given.get(name, 'none (missing)')}; these weights are of a model with other sizes"
            )
