"""How tokens of `[prompt | response 1 | ... | response k]` read one another in one forward pass.

Responses read the prompt's keys but not each other (prefix sharing, arXiv:2410.20305). The dense form does
that by shape: the scores of a prompt and of each response are arrays of their own. Where these would be
large, `kernels.attention` computes the same a block at a time.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxpref.kernels.attention import Choice, Marks, Row, planned, row_attention
from jaxpref.models.attention import Keys
from jaxpref.models.transformer import Transformer, Window, causal, heads, score_scale

__all__ = ["Read", "prompts_reading", "rows_reading"]

# Of all tokens of the rows: queries `[b t n g h]`, keys and values `[b t n h]` -> what the queries read.
Read = Callable[[Array, Array, Array], Array]
_FAR = 2**30  # positions


def prompts_reading(model: Transformer, mask: Bool[Array, "b p"]) -> Callable[[bool | Array], Read]:
    """As `rows_reading`, of prompts alone."""
    return rows_reading(model, mask, jnp.zeros((len(mask), 0), jnp.int32), 0)


def rows_reading(
    model: Transformer, mask: Bool[Array, "b p"], after: Int[Array, "b r"], k: int
) -> Callable[[bool | Array], Read]:
    """How a layer reads, by whether its window is local.

    Args:
      mask: False for padding at the end of a prompt.
      after: positions of the tokens of a response.
      k: responses to each prompt.
    """
    sizes, (b, p), r = model.sizes, mask.shape, after.shape[1]
    window = sizes.sliding_window if any(sizes.local_layers) else None
    found = planned(
        Row(p, k, r),
        rows=b,
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        window=window,
        implementation=model.attention,
    )
    if found.name == "dense":
        return _Dense.of(model, mask, after, k).on
    order = jnp.broadcast_to(jnp.arange(p)[None], (b, p))
    positions = jnp.concatenate([order, jnp.tile(after, (1, k))], 1)
    segments = jnp.asarray(found.shape.row.segments())[None]
    real = jnp.concatenate([mask, jnp.ones((b, k * r), bool)], 1)
    return _ByBlocks(model, found, Marks(segments, positions, real, None)).on


@dataclasses.dataclass(frozen=True, eq=False)
class _ByBlocks:
    model: Transformer
    found: Choice
    marks: Marks

    def on(self, is_local: bool | Array) -> Read:
        sizes = self.model.sizes
        width, known = sizes.sliding_window, isinstance(is_local, bool)
        if width is None or (known and not is_local):
            window, limit = None, None
        elif known:
            window, limit = width, jnp.int32(width)
        else:
            window, limit = None, jnp.where(is_local, width, _FAR)

        def read(q: Array, keys: Array, values: Array) -> Array:
            return row_attention(
                q,
                keys,
                values,
                self.marks._replace(window=limit),
                self.found,
                scale=score_scale(sizes),
                soft_cap=sizes.attention_soft_cap,
                window=window,
            )

        return read


@dataclasses.dataclass(frozen=True, eq=False)
class _Dense:
    model: Transformer
    p: int
    k: int
    prompt: Window  # who reads whom within a prompt, within a response, and of a prompt by a response
    own: Window
    to_prompt: Window

    @classmethod
    def of(cls, model: Transformer, mask: Bool[Array, "b p"], after: Int[Array, "b r"], k: int) -> "_Dense":
        sizes, p = model.sizes, mask.shape[1]
        distance = after[:, :, None] - jnp.arange(p)[None, None]
        to_prompt = Window.of(mask[:, None], distance, sizes)
        return cls(model, p, k, causal(sizes, p), causal(sizes, after.shape[1]), to_prompt)

    def on(self, is_local: bool | Array) -> Read:
        p, k, model = self.p, self.k, self.model

        def heads_first(x: Array) -> Array:
            return jnp.swapaxes(x, -3, -2)

        def read(q: Array, keys: Array, values: Array) -> Array:
            def own(x: Array) -> Array:
                return x[:, p:].reshape(len(x), k, -1, *x.shape[2:])

            prompt_keys, prompt_values = heads_first(keys[:, :p]), heads_first(values[:, :p])
            parts = []
            if k:
                mask = self.own.on(is_local)
                parts.append(Keys(heads_first(own(keys)), heads_first(own(values)), mask))
                if p:
                    parts.append(Keys(prompt_keys, prompt_values, self.to_prompt.on(is_local)))
                responses = heads(model, own(q), parts).reshape(len(q), -1, *q.shape[2:])
                if not p:
                    return responses
            prompt = Keys(prompt_keys[:, None], prompt_values[:, None], self.prompt.on(is_local))
            prompts = heads(model, q[:, None, :p], [prompt])[:, 0]
            return jnp.concatenate([prompts, responses], 1) if k else prompts

        return read
