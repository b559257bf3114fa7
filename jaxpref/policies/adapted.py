"""A policy of which a part is trained, above a base that exists once: adapters, a head, some weights."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpref.models.hub.lazy import cast
from jaxpref.models.lora import LoRA
from jaxpref.models.quantized import Format
from jaxpref.models.quantizing import Quantization
from jaxpref.policies.base import Model, Policy
from jaxpref.trees import flat, nested
from jaxpref.types import Params, PRNGKey

__all__ = ["adapted"]


def adapted(
    *,
    policy: Callable[..., Policy],
    base: Callable[[], Params],
    lora: LoRA | None = LoRA(),
    train: str | None = None,
    quantize: Format | None = None,
    quantize_tile: int | None = None,
) -> Policy:
    """`policy` above the weights of `base`; its adapters, its head and what `train` names are trained.

    The params of this policy are what is trained. All else is among its constants (`Policy.constants`), which
    no state, copy or optimizer holds and no gradient is formed of. So a reference, a behaviour policy or
    an average is a copy of the adapters. Those begin at no change: at step 0 the policy is the base, exactly.

    Args:
      policy: builds the policy, and takes `lora=` where there are adapters: a partial of
        `policies.transformer.transformer`, with `outputs=` for a reward model. (For a preference model:
        `comparing(policy=partial(adapted, ...))`.)
      base: loads its weights, such as `partial(hf_weights, path=...)`: arrays of the host, read when the run
        begins. They are cast to the dtypes of the policy.
      lora: the adapters; None: none.
      train: pattern of whole dotted names of weights (`re.fullmatch`) that are trained beside them, from the
        values of the base, such as `final_norm.*|blocks.*norm.*`. Layers lie on one axis, so it is all of
        them or none. What is trained is float32 or wider.
      quantize: number format of the projections of blocks that are not trained (`models.quantizing`), which
        are quantised as they are read: "int8", or as in QLoRA (arXiv:2305.14314) "nf4" or "int4"; None: as
        they are. The policy that adapters begin at, and any reference, is then the quantised base.
      quantize_tile: inputs that share a scale (`models.quantizing.Quantization`).

    Raises:
      ValueError: nothing is trained, the pattern names nothing, the tile does not divide the inputs of a
        projection, or (when it is loaded) the base does not fit.
    """
    inner = policy() if lora is None else policy(lora=lora)
    if inner.constants is not None:
        raise ValueError("adapted: this policy has constants already; give the policy below them")
    shapes = flat(jax.eval_shape(inner.init, jax.random.key(0)))
    added = {name for name in shapes if name.rpartition(".")[2] in inner.adds}
    trained = added | _matching(train, shapes)
    if not trained:
        raise ValueError("adapted: nothing is trained; give lora=LoRA(), or train= a pattern of names")
    shapes |= {name: _wide(shapes[name]) for name in trained}
    quantization = _quantization(quantize, quantize_tile)
    split = _Split(inner, base, shapes, added, trained, quantization)
    if quantization is not None:
        quantization.check({name: shapes[name].shape for name in split.quantized})
    sizes = {name: math.prod(leaf.shape) for name, leaf in shapes.items()}
    share = sum(sizes[name] for name in trained) / sum(sizes.values())
    return inner._replace(
        init=split.init,
        axes=split.axes,
        constants=split.constants,
        given=split.given,
        backward=1 + (inner.backward - 1) * share,
    )


def _quantization(kind: Format | None, tile: int | None) -> Quantization | None:
    if kind is None and tile is not None:
        raise ValueError(
            f"adapted.quantize_tile: {tile} inputs share a scale in no format; give quantize=, too"
        )
    return None if kind is None else Quantization(kind, tile)


def _wide(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """In float32 or wider: most steps of an optimizer are less than half a unit of a bfloat16 weight."""
    return jax.ShapeDtypeStruct(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32))


def _matching(pattern: str | None, names: Iterable[str]) -> set[str]:
    if pattern is None:
        return set()
    try:
        found = {name for name in names if re.fullmatch(pattern, name)}
    except re.error as error:
        raise ValueError(f"adapted.train: {pattern!r} is no pattern: {error}") from error
    if not found:
        raise ValueError(f"adapted.train: {pattern!r} matches no weight; there are {', '.join(names)}")
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class _Split:
    """Which arrays of a policy are trained, by dotted name."""

    inner: Policy
    base: Callable[[], Params]
    shapes: Mapping[str, jax.ShapeDtypeStruct]
    added: Set[str]  # those that a base need not have
    trained: Set[str]
    quantization: Quantization | None

    @property
    def quantized(self) -> list[str]:
        """The projections of blocks that stay as they are."""
        names = sorted(self.shapes.keys() - self.trained)
        return [name for name in names if name.startswith("blocks.") and name.endswith(".weight")]

    def init(self, key: PRNGKey) -> Params:
        """Random values of what is trained; the loop puts those of the base (`given`) in their place."""
        drawn = flat(self.inner.init(key))
        return nested({name: drawn[name].astype(self.shapes[name].dtype) for name in self.trained})

    def axes(self) -> Any:
        return nested(flat(self.inner.axes()), self.trained)

    def constants(self) -> Model:
        names = self.shapes.keys() - self.trained
        base, axes = nested(self._read(), names), nested(flat(self.inner.axes()), names)
        if self.quantization is None:
            return Model(base, axes)
        base, axes = flat(base), flat(axes)
        for name in self.quantized:
            made, names_of = self.quantization.of(base.pop(name)), axes.pop(name)
            for part, array in made.items():
                base[f"{name}.{part}"], axes[f"{name}.{part}"] = array, names_of
        return Model(nested(base), nested(axes))

    def given(self) -> Params:
        base = self._read()
        return nested(base, self.trained & base.keys())

    def _read(self) -> dict[str, Any]:
        """The arrays of the base in the dtypes of the policy."""
        base = flat(self.base())
        for name in sorted(base.keys() | (self.shapes.keys() - self.added)):
            found = np.shape(base[name]) if name in base else "missing"
            wanted = self.shapes[name].shape if name in self.shapes else "unknown"
            if found != wanted:
                raise ValueError(
                    f"adapted.base: {name} is {found} in the base and {wanted} in the policy; give weights "
                    "of the policy's sizes, without adapters"
                )
        return {name: cast(x, self.shapes[name].dtype) for name, x in base.items()}
