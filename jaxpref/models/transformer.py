"""One decoder-only transformer as pure functions of a plain dict of arrays, block weights stacked on axis 0.

The layers are Flax modules, but only inside the scan over blocks: `params` holds no module, so optimizers,
checkpoints and `jax.jit` see arrays only. (`jax.jit` on such a dict dispatches about ten times faster than
`nnx.jit` on modules.)
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from jaxpref import keys
from jaxpref.kernels import attention
from jaxpref.kernels.lookup import looked_up
from jaxpref.kernels.token_logps import IMPLEMENTATIONS
from jaxpref.kernels.tokens import tokens_split, tokens_whole
from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.attention import Keys, attend
from jaxpref.models.layers import Attend, Block, Norm, add_adapters
from jaxpref.models.lora import LoRA, has_adapters, with_dropout_keys
from jaxpref.models.quantized import bound
from jaxpref.models.remat import INPUT, check_remat, remat_policy
from jaxpref.models.rope import rope_tables
from jaxpref.types import Params, PRNGKey

__all__ = [
    "Transformer",
    "Window",
    "causal",
    "check_length",
    "final_norm",
    "heads",
    "last_of_prompt",
    "run_blocks",
    "score_scale",
    "unembedding",
    "unstacked",
]

_DTYPES = ("float32", "bfloat16", "float16", "float64")
_FEW_LAYERS = 8
_EMBEDDING_SCALE = 0.02  # of initial embeddings: first logits are small, so the first loss is near log(vocab)


@dataclasses.dataclass(frozen=True)
class Transformer:
    """Sizes and how to compute: hashable, holds no array.

    `remat`: what the backward pass recomputes, "none" of it or what `models.remat` says.
    `unroll`: blocks per iteration of the scan; None is all of a model of up to 8 layers, else 1. Unrolling
    four layers of width 256 on two CPU cores took 3 % off a gradient and a quarter off its compilation.
    `head`: implementation of the log-probs (`kernels.token_logps.IMPLEMENTATIONS`); None decides from
    shapes and machine.
    `outputs`: scalars that a linear head without bias gives for a response (a reward, an embedding of a
    preference model); 0 for none.
    `lora`: adapters of the projections (`models.lora`). Params without any are those of the model with its
    adapters off. With an entry "noise", a key, the adapters drop inputs.
    `attention`: implementation of attention where all tokens of a row are computed at once
    (`kernels.attention.IMPLEMENTATIONS`); None decides from shapes and machine.
    """

    sizes: TransformerSizes
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    remat: str = "none"
    unroll: int | None = None
    head: str | None = None
    outputs: int = 0
    lora: LoRA | None = None
    attention: str | None = None

    def __post_init__(self) -> None:
        check_remat(self.remat)
        for name in ("param_dtype", "compute_dtype"):
            if getattr(self, name) not in _DTYPES:
                raise ValueError(f"{name}: expected one of {_DTYPES}, got {getattr(self, name)!r}")
        if self.head not in (None, *IMPLEMENTATIONS):
            raise ValueError(f"head: expected one of {IMPLEMENTATIONS} or None, got {self.head!r}")
        if self.attention not in (None, *attention.IMPLEMENTATIONS):
            raise ValueError(
                f"attention: expected one of {attention.IMPLEMENTATIONS} or None, got {self.attention!r}"
            )
        if self.outputs < 0:
            raise ValueError(f"outputs: expected 0 (no head) or more, got {self.outputs}")
        if self.unroll is not None and self.unroll < 1:
            raise ValueError(f"unroll: expected at least 1, got {self.unroll}")

    def init(self, key: PRNGKey) -> Params:
        """Random weights."""
        sizes, dtype = self.sizes, jnp.dtype(self.param_dtype)

        def normal(name: str, shape: tuple[int, int], scale: float) -> Array:
            return (jax.random.normal(keys.fold(key, name), shape) * scale).astype(dtype)

        def block(layer: Array) -> dict[str, Any]:
            one = Block(sizes, dtype=dtype, rngs=nnx.Rngs(params=keys.fold(key, "blocks", layer)))
            if self.lora is not None:
                add_adapters(one, self.lora, lambda name: keys.fold(key, "lora", name, layer))
            return nnx.to_pure_dict(nnx.state(one))

        table = sizes.vocab, sizes.embed
        params = {
            "embedding": normal("embedding", table, _EMBEDDING_SCALE),
            "blocks": jax.vmap(block)(jnp.arange(sizes.layers)),
            "final_norm": nnx.to_pure_dict(nnx.state(Norm(sizes, sizes.embed, dtype=dtype))),
        }
        if not sizes.tied:
            params["unembedding"] = normal("unembedding", table, _EMBEDDING_SCALE)
        if sizes.learned_positions:
            params["positions"] = normal("positions", (sizes.max_length or 0, sizes.embed), _EMBEDDING_SCALE)
        if self.outputs:
            # As in arXiv:2009.01325: first rewards have a variance of about one, since the final norm leaves
            # numbers of size one.
            params["head"] = normal("head", (sizes.embed, self.outputs), (sizes.embed + 1) ** -0.5)
        return params

    def axes(self) -> Any:
        """The tree of `params` with a tuple of logical axis names in place of each array."""
        block, norm = _abstract_modules(self.sizes, self.lora)
        names = {
            "embedding": ("vocab", "embed"),
            "blocks": _axis_names(block, ("layers",)),
            "final_norm": _axis_names(norm, ()),
        }
        if not self.sizes.tied:
            names["unembedding"] = ("vocab", "embed")
        if self.sizes.learned_positions:
            names["positions"] = ("vocab", "embed")  # a table that is looked up, and laid out like words
        if self.outputs:
            names["head"] = ("embed", None)
        return names


@functools.lru_cache(maxsize=64)
def _abstract_modules(
    sizes: TransformerSizes, lora: LoRA | None = None, dropping: bool = False
) -> tuple[nnx.Module, nnx.Module]:
    dtype = jnp.dtype("float32")

    def block() -> Block:
        one = Block(sizes, dtype=dtype, rngs=nnx.Rngs(0))
        if lora is not None:
            add_adapters(one, lora, lambda _: jax.random.key(0), dropping=dropping)
        return one

    return nnx.eval_shape(block), nnx.eval_shape(lambda: Norm(sizes, sizes.embed, dtype=dtype))


def _axis_names(module: nnx.Module, leading: tuple[str, ...]) -> Any:
    return nnx.to_pure_dict(nnx.state(module), lambda weight: leading + weight.get_metadata()["axes"])


def _bind(module: nnx.Module, weights: Params) -> Any:
    return nnx.merge(nnx.graphdef(module), nnx.State(weights))


@dataclasses.dataclass(frozen=True)
class Window:
    """A mask with and without the sliding window; a layer takes one of them."""

    full: Bool[Array, "#b #q s"]
    windowed: Bool[Array, "#b #q s"]

    @classmethod
    def of(
        cls,
        allowed: Bool[Array, "#b #q s"],
        distance: Int[Array, "#b #q s"],
        sizes: TransformerSizes,
    ) -> "Window":
        """`distance`: position of the query minus that of the key."""
        window = sizes.sliding_window
        return cls(allowed, allowed if window is None else allowed & (distance < window))

    def on(self, is_local: bool | Array) -> Bool[Array, "#b #q s"]:
        if isinstance(is_local, bool):
            return self.windowed if is_local else self.full
        return jnp.where(is_local, self.windowed, self.full)


def run_blocks(
    model: Transformer,
    params: Params,
    tokens: Int[Array, "b t"],
    positions: Int[Array, "b t"],
    attend_on: Callable[[bool | Array, Any], Attend],
    per_layer: Any = None,
) -> tuple[Float[Array, "b t d"], Any]:
    """Residual stream after the last block (before the final norm), and what each layer's attention kept.

    `attend_on(is_local, slice of per_layer)` gives a layer its attention; `per_layer` is a tree of arrays
    with layers on axis 0, as are the results. Where `params["blocks"]` is a list (`unstacked`), so are
    `per_layer` and the results.
    """
    sizes, dtype = model.sizes, jnp.dtype(model.compute_dtype)
    lora, noise = model.lora if has_adapters(params["blocks"]) else None, params.get("noise")
    block, _ = _abstract_modules(sizes, lora, lora is not None and noise is not None)
    x = looked_up(params["embedding"], tokens, dtype)
    if sizes.scale_embedding:
        x = x * jnp.asarray(sizes.embed**0.5, dtype)
    if sizes.learned_positions:
        x = x + looked_up(params["positions"], positions, dtype)
    flags = sizes.local_layers
    mixed = any(flags) and not all(flags)
    tables, kinds = rope_tables(sizes, positions, dtype)

    def layer(x: Array, inputs: tuple) -> tuple[Array, Any]:
        weights, flag, kind, extra, *key = inputs
        if key:
            weights = with_dropout_keys(weights, *key)
        if model.remat == "host":
            x = checkpoint_name(x, INPUT)
        is_local = flag if mixed else flags[0]
        angles = None if tables is None else tables[kind if len(tables) > 1 else 0]
        return _bind(block, bound(weights))(x, angles, attend_on(is_local, extra))

    x = tokens_split(x)
    if model.remat != "none":
        layer = jax.checkpoint(layer, policy=remat_policy(model.remat), prevent_cse=False)
    if isinstance(params["blocks"], list):
        kept = []
        for inputs in zip(params["blocks"], flags, kinds, per_layer, strict=True):
            x, one = layer(x, inputs)
            kept.append(one)
        return tokens_whole(x), kept
    inputs = (params["blocks"], jnp.asarray(flags), jnp.asarray(kinds), per_layer)
    if lora is not None and noise is not None:
        inputs = (*inputs, jax.random.split(noise, sizes.layers))
    x, kept = jax.lax.scan(layer, x, inputs, unroll=_unroll(model))
    return tokens_whole(x), kept


def _unroll(model: Transformer) -> int:
    layers = model.sizes.layers
    return min(model.unroll or (layers if layers <= _FEW_LAYERS else 1), layers)


def unstacked(model: Transformer, tree: Any) -> Any:
    """`tree`, with layers on axis 0, as a list of trees, one for each layer, if the model unrolls them all.

    For arrays that a loop over tokens reads at every step: XLA would copy each layer's slice every time.
    """
    if _unroll(model) < model.sizes.layers:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    return [structure.unflatten([x[i] for x in leaves]) for i in range(model.sizes.layers)]


def unembedding(params: Params) -> Float[Array, "v d"]:
    """The matrix that maps hidden states to logits: the embedding itself where tied."""
    return params.get("unembedding", params["embedding"])


def final_norm(model: Transformer, params: Params, x: Float[Array, "*rows d"]) -> Float[Array, "*rows d"]:
    """The norm in front of the unembedding."""
    return _bind(_abstract_modules(model.sizes)[1], params["final_norm"])(x)


def check_length(sizes: TransformerSizes, length: int) -> None:
    """Raises ValueError where arrays have room for more tokens than the model tells apart."""
    if sizes.longest is not None and length > sizes.longest:
        raise ValueError(
            f"prompt and response have room for {length} tokens together, the model for {sizes.longest}: "
            "beyond that it has no positions, or other rotations; cut prompts and responses to fit"
        )


def causal(sizes: TransformerSizes, length: int) -> Window:
    """Each token reads itself and those before it."""
    order = jnp.arange(length)
    distance = order[None, :, None] - order[None, None]
    return Window.of(distance >= 0, distance, sizes)


def heads(model: Transformer, queries: Array, parts: list[Keys]) -> Array:
    """`attend` with the scale and the cap of the model."""
    sizes = model.sizes
    return attend(queries, parts, scale=score_scale(sizes), soft_cap=sizes.attention_soft_cap)


def score_scale(sizes: TransformerSizes) -> float:
    """What products of queries and keys are multiplied by."""
    return sizes.head_dim**-0.5 if sizes.query_scale is None else sizes.query_scale


def last_of_prompt(x: Float[Array, "b p d"], lengths: Int[Array, " b"]) -> Float[Array, "b d"]:
    """Hidden state of the last real token; of an empty prompt that of its padding, which has no meaning."""
    return jnp.take_along_axis(x, jnp.maximum(lengths - 1, 0)[:, None, None], 1)[:, 0]
