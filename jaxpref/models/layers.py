"""The layers of a decoder as Flax NNX modules over `[..., tokens, embed]`.

A weight carries the names of its logical axes beside it, `nnx.Param(value, axes=(...))`. They sit under our
own key because Flax's own sharding metadata wants a mesh at construction, and a model knows no mesh.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from jaxpref.kernels.tokens import tokens_split, tokens_whole
from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.lora import LoRA
from jaxpref.models.low_rank import low_rank
from jaxpref.models.quantized import product
from jaxpref.models.remat import WIDENED
from jaxpref.models.rope import rotate
from jaxpref.types import PRNGKey

__all__ = ["MLP", "Attention", "Attend", "Block", "Linear", "Norm", "activation", "add_adapters"]

# (queries, keys, values) of all tokens -> what the heads read, and anything the caller wants to keep.
Attend = Callable[[Array, Array, Array], tuple[Array, Any]]


def activation(name: str) -> Callable[[Array], Array]:
    """The non-linearity named by `TransformerSizes.activation`."""
    return {
        "silu": jax.nn.silu,
        "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
        "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    }[name]


class Linear(nnx.Module):
    """`x @ weight + bias`, and with an adapter `+ scale * (x @ lora_a) @ lora_b`, in the dtype of `x`."""

    lora_a: nnx.Param | None = None
    lora_b: nnx.Param | None = None
    lora_key: nnx.Variable | None = None
    lora_scale: float = 1.0
    dropout: float = 0.0

    def __init__(
        self,
        inputs: int,
        outputs: int,
        axes: tuple[str, str],
        *,
        bias: bool,
        scale: float = 1.0,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        # 1 / sqrt(inputs) keeps the variance of activations, whatever the width.
        weight = jax.random.normal(rngs.params(), (inputs, outputs), jnp.float32) * (scale * inputs**-0.5)
        self.weight = nnx.Param(weight.astype(dtype), axes=axes)
        self.bias = nnx.Param(jnp.zeros(outputs, dtype), axes=(axes[1],)) if bias else None

    def __call__(self, x: Float[Array, "*rows i"]) -> Float[Array, "*rows o"]:
        y = product(x, self.weight.get_value())
        if self.lora_a is not None and self.lora_b is not None:
            change: Any = low_rank(self.lora_scale, self._kept(x), self.lora_a[...], self.lora_b[...])
            y = y + change
        if self.bias is None:
            return y
        return y + self.bias[...].astype(x.dtype).reshape((1,) * (y.ndim - 1) + (-1,))

    def adapt(self, rank: int, scale: float, key: PRNGKey) -> None:
        """Adds an adapter (`models.lora.LoRA`) that changes nothing yet."""
        inputs, outputs = self.weight.shape
        dtype = jnp.promote_types(self.weight.dtype, jnp.float32)
        # PyTorch's `kaiming_uniform_` with a = sqrt(5).
        a = jax.random.uniform(key, (inputs, rank), dtype, -(inputs**-0.5), inputs**-0.5)
        rows, columns = self.weight.get_metadata()["axes"]
        self.lora_a = nnx.Param(a, axes=(rows, None))
        self.lora_b = nnx.Param(jnp.zeros((rank, outputs), dtype), axes=(None, columns))
        self.lora_scale = scale

    def drop(self, rate: float, key: PRNGKey) -> None:
        """Makes the adapter drop a share of its inputs, by a key that lies beside the weights."""
        self.lora_key, self.dropout = nnx.Variable(key), rate

    def _kept(self, x: Float[Array, "*rows i"]) -> Float[Array, "*rows i"]:
        if self.lora_key is None:
            return x
        kept = jax.random.bernoulli(self.lora_key[...], 1 - self.dropout, x.shape)
        return jnp.where(kept, x / (1 - self.dropout), 0)


class Norm(nnx.Module):
    """RMSNorm (arXiv:1910.07467 eq. 4) or LayerNorm over the last axis, in float32 or wider."""

    def __init__(self, sizes: TransformerSizes, width: int, *, dtype: jnp.dtype):
        self.eps, self.offset, self.centered = sizes.norm_eps, sizes.norm_offset, sizes.norm == "layer"
        start = jnp.zeros if self.offset else jnp.ones
        self.scale = nnx.Param(start(width, dtype), axes=("norm",))
        self.bias = nnx.Param(jnp.zeros(width, dtype), axes=("norm",)) if self.centered else None

    def __call__(self, x: Float[Array, "*rows d"]) -> Float[Array, "*rows d"]:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        row = (1,) * (x.ndim - 1) + (-1,)
        if self.centered:
            wide = wide - wide.mean(-1, keepdims=True)
        scale = self.scale[...].astype(wide.dtype).reshape(row) + self.offset
        y = wide * jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True) + self.eps) * scale
        if self.bias is not None:
            y = y + self.bias[...].astype(wide.dtype).reshape(row)
        return y.astype(x.dtype)


class Attention(nnx.Module):
    """Projections around an attention that the caller supplies, with grouped key heads (arXiv:2305.13245)."""

    def __init__(self, sizes: TransformerSizes, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.sizes = sizes
        queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim

        def project(outputs: int, axis: str) -> Linear:
            return Linear(sizes.embed, outputs, ("embed", axis), bias=sizes.qkv_bias, dtype=dtype, rngs=rngs)

        self.query = project(queries, "heads")
        self.key = project(keys, "kv_heads")
        self.value = project(keys, "kv_heads")
        self.output = Linear(
            queries,
            sizes.embed,
            ("heads", "embed"),
            bias=sizes.output_bias,
            # Keeps the variance of the residual stream independent of depth.
            scale=(2 * sizes.layers) ** -0.5,
            dtype=dtype,
            rngs=rngs,
        )

        def norm(width: int) -> Norm | None:
            width = sizes.head_dim if sizes.qk_norm == "head" else width
            return Norm(sizes, width, dtype=dtype) if sizes.qk_norm else None

        self.query_norm, self.key_norm = norm(queries), norm(keys)

    def __call__(
        self, x: Float[Array, "b t d"], angles: Float[Array, "2 b t half"] | None, attend: Attend
    ) -> tuple[Float[Array, "b t d"], Any]:
        sizes = self.sizes
        q, k, v = self.query(x), self.key(x), self.value(x)
        if self.query_norm is not None and self.key_norm is not None and sizes.qk_norm == "width":
            q, k = self.query_norm(q), self.key_norm(k)
        q = q.reshape(*x.shape[:2], sizes.kv_heads, sizes.heads // sizes.kv_heads, sizes.head_dim)
        k, v = (y.reshape(*x.shape[:2], sizes.kv_heads, sizes.head_dim) for y in (k, v))
        if self.query_norm is not None and self.key_norm is not None and sizes.qk_norm == "head":
            q, k = self.query_norm(q), self.key_norm(k)
        if angles is not None:
            q, k = rotate(q, angles, sizes.rope_style), rotate(k, angles, sizes.rope_style)
        read, kept = attend(q, k, v)
        return self.output(read.reshape(*x.shape[:2], -1)), kept


class MLP(nnx.Module):
    """Gated (SwiGLU and kin, arXiv:2002.05202) or plain feed-forward layer."""

    def __init__(self, sizes: TransformerSizes, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.activation = sizes.activation

        def widen() -> Linear:
            return Linear(
                sizes.embed, sizes.mlp, ("embed", "mlp"), bias=sizes.mlp_bias, dtype=dtype, rngs=rngs
            )

        self.gate = widen() if sizes.gated else None
        self.up = widen()
        self.down = Linear(
            sizes.mlp,
            sizes.embed,
            ("mlp", "embed"),
            bias=sizes.mlp_bias,
            scale=(2 * sizes.layers) ** -0.5,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        given = (self.up(x),) if self.gate is None else (self.gate(x), self.up(x))
        given = [checkpoint_name(y, WIDENED) for y in given]
        # Where a gradient is formed, what is between the products is computed again, not kept.
        return self.down(jax.checkpoint(partial(_hidden, self.activation), prevent_cse=False)(*given))


def _hidden(name: str, x: Float[Array, "b t h"], *factors: Float[Array, "b t h"]) -> Float[Array, "b t h"]:
    """`activation(x)`, times `factors`, in float32 or wider: rounded once, whatever XLA fuses."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    y = activation(name)(x.astype(wide))
    for factor in factors:
        y = y * factor.astype(wide)
    return y.astype(x.dtype)


class Block(nnx.Module):
    """Attention and feed-forward, with norms in front, behind or both, added to the residual stream."""

    def __init__(self, sizes: TransformerSizes, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        def norm(present: bool) -> Norm | None:
            return Norm(sizes, sizes.embed, dtype=dtype) if present else None

        self.parallel = sizes.parallel_residual
        self.attention_norm = norm(sizes.pre_norms)
        self.attention = Attention(sizes, dtype=dtype, rngs=rngs)
        self.attention_post_norm = norm(sizes.post_norms)
        self.mlp_norm = norm(sizes.pre_norms)
        self.mlp = MLP(sizes, dtype=dtype, rngs=rngs)
        self.mlp_post_norm = norm(sizes.post_norms)

    def __call__(
        self, x: Float[Array, "b t d"], angles: Float[Array, "2 b t half"] | None, attend: Attend
    ) -> tuple[Float[Array, "b t d"], Any]:
        y, kept = self.attention(_entering(x, self.attention_norm), angles, attend)
        if self.parallel:
            return x + tokens_split(y + self.mlp(_entering(x, self.mlp_norm))), kept
        x = x + _leaving(y, self.attention_post_norm)
        y = self.mlp(_entering(x, self.mlp_norm))
        return x + _leaving(y, self.mlp_post_norm), kept


def _entering(x: Array, norm: Norm | None) -> Array:
    """What attention or feed-forward starts from: all tokens of a row, which between layers may be split."""
    return tokens_whole(x if norm is None else norm(x))


def _leaving(y: Array, norm: Norm | None) -> Array:
    y = tokens_split(y)
    return y if norm is None else norm(y)


def add_adapters(
    block: nnx.Module, lora: LoRA, key_of: Callable[[str], PRNGKey], *, dropping: bool = False
) -> None:
    """Adds adapters to the projections of a block. `key_of(name)` is the key that `a` is drawn with.

    `dropping`: each has a place for a key, with which it drops some of its inputs.

    Raises:
      ValueError: no projection has such a name.
    """
    names = []
    for name, linear in _projections(block):
        names.append(name)
        if lora.targets_name(name):
            linear.adapt(lora.rank_of(name), lora.scale_of(name), key_of(name))
            if dropping:
                linear.drop(lora.dropout, key_of(name))
    if isinstance(lora.targets, tuple):
        unknown = [t for t in lora.targets if not any(n == t or n.endswith(f".{t}") for n in names)]
    else:
        unknown = [] if any(map(lora.targets_name, names)) else [lora.targets]
    if unknown:
        raise ValueError(f"LoRA.targets: {unknown} names no projection; there are {', '.join(names)}")


def _projections(block: nnx.Module) -> Iterator[tuple[str, Linear]]:
    for path, module in nnx.iter_modules(block):
        if isinstance(module, Linear):
            yield ".".join(map(str, path)), module
