"""Weights quantised as they are read: lazy arrays of codes and of scales above a lazy array of floats."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxpref.models.hub.lazy import BLOCK, Bounds, LazyArray, Piece, within, wrapped
from jaxpref.models.quantized import Format, packed, qwix

__all__ = ["Quantization"]

_TILE = 64  # of 4-bit formats: arXiv:2305.14314, section 3


@dataclasses.dataclass(frozen=True)
class Quantization:
    """A number format of weights `[layers, inputs, outputs]`; a scale is that of the largest under it.

    *int8* and *int4* are symmetric and uniform, as qwix 0.1.8 has them: codes `round(w / scale)`, half to
    even, of the scale `max|w| / 127.5` or `/ 7.5`. So the largest lie half a step beyond the last code, and
    none is off by more; what is quantised twice changes twice. (*Differs from* LLM.int8, arXiv:2208.07339,
    whose `max|w| / 127` keeps the largest.) *nf4* has 16 quantiles of a normal distribution in [-1, 1]
    (arXiv:2305.14314, appendix E), of which the nearest to `w / max|w|` is taken; its scales are float32 and
    not quantised again, as that paper's are.

    Args:
      tile: inputs that share a scale, which they do for each output apart; None: all of them for int8, 64
        for the 4-bit formats (arXiv:2305.14314).

    Example:
      >>> weight = np.full((2, 64, 3), 0.5, np.float32)  # two layers
      >>> made = Quantization("nf4").of(weight)
      >>> made["nf4"].shape, made["scales"].shape, float(made["scales"][:1][0, 0, 0])
      ((2, 32, 3), (2, 1, 3), 0.5)
    """

    format: Format
    tile: int | None = None

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise ValueError(f"quantize: expected one of {get_args(Format)} or None, got {self.format!r}")
        if self.tile is not None and (self.tile < 1 or self.tile % self.per_byte):
            raise ValueError(
                f"quantize_tile: expected 1 or more inputs, an even number in 4 bits, got {self.tile}"
            )
        qwix()

    @property
    def per_byte(self) -> int:
        return 1 if self.format == "int8" else 2

    def inputs(self, all_of_them: int) -> int:
        """How many inputs share a scale."""
        return self.tile or (all_of_them if self.format == "int8" else _TILE)

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Raises ValueError for the first weight by name whose inputs the tile does not divide."""
        for name, (_, inputs, _) in shapes.items():
            if inputs % self.inputs(inputs):
                raise ValueError(
                    f"quantize_tile: tiles of {self.inputs(inputs)} do not divide the {inputs} inputs of "
                    f"{name}; give a divisor of the inputs of all projections"
                )

    def of(self, weight: Any) -> dict[str, LazyArray]:
        """The fields of `models.quantized.Quantized`, lazy: what is asked for is read and quantised then,
        about a MiB at a time.

        Args:
          weight: floats [layers, inputs, outputs], lazy or of the host. It is quantised in float32 or wider.
        """
        lazy = wrapped(weight)
        layers, inputs, outputs = lazy.shape
        tile = self.inputs(inputs)
        codes = (layers, inputs // self.per_byte, outputs), np.int8 if self.per_byte == 1 else np.uint8
        scales = (layers, inputs // tile, outputs), jnp.promote_types(lazy.dtype, jnp.float32)
        return {
            self.format: _Part(lazy, self, "codes", *codes),
            "scales": _Part(lazy, self, "scales", *scales),
        }


class _Part(LazyArray):
    """The codes or the scales of a weight."""

    def __init__(
        self, base: LazyArray, how: Quantization, part: str, shape: Sequence[int], dtype: Any
    ) -> None:
        super().__init__(shape, dtype)
        self._base, self._part, self._format = base, part, how.format
        self._tile = how.inputs(base.shape[1])
        self._rows = self._tile // how.per_byte if part == "codes" else 1  # of this part, from one tile
        self.is_stack = base.is_stack

    def pieces(self, bounds: Bounds) -> Iterator[Piece]:
        layers, (start, stop), (left, right) = bounds
        tiles = start // self._rows, -(-stop // self._rows)
        inputs = slice(*(tile * self._tile for tile in tiles))
        inside = slice(start - tiles[0] * self._rows, stop - tiles[0] * self._rows)
        width = max(16, BLOCK // (4 * max(1, inputs.stop - inputs.start)))
        for layer in range(*layers):
            for first in range(left, right, width):
                last = min(first + width, right)
                place = (layer, layer + 1), (start, stop), (first, last)
                index = slice(layer, layer + 1), inputs, slice(first, last)
                yield within(place, bounds), lambda index=index: self._quantized(index)[:, inside]

    def _quantized(self, index: tuple[slice, ...]) -> np.ndarray:
        weight = self._base[index]
        wide = weight.astype(jnp.promote_types(weight.dtype, jnp.float32))
        return np.asarray(_quantize(jax.device_put(wide, _host()), self._format, self._tile, self._part))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _quantize(weight: jax.Array, kind: str, tile: int, part: str) -> jax.Array:
    """The part of one layer `[1, inputs, outputs]`."""
    made = qwix().quantize(weight, kind, channelwise_axes=(0, 2), tiled_axes={1: tile})
    if part == "scales":
        return made.scale
    return made.qvalue if kind == "int8" else packed(made.qvalue)


@functools.cache
def _host() -> Any:
    """Where it is done, whatever the devices are: they may round otherwise, and fingerprints are of this."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # switched off (JAX_PLATFORMS)
        return None
