"""A softmax table over short sequences: a policy small enough to list all its responses."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpref.kernels.token_logps.api import Rows
from jaxpref.kernels.token_logps.fold import KL, STATISTICS
from jaxpref.kernels.token_logps.reference import logits_scores
from jaxpref.policies.base import Policy
from jaxpref.policies.response_tree import ResponseTree
from jaxpref.sampling import Decoder, end_ids, sampler
from jaxpref.types import Completions, Params, PRNGKey, Prompts, Samples

__all__ = ["SoftmaxTable", "enumerated", "tabular"]

_MOST_ENTRIES = 10_000_000


def tabular(
    *,
    prompts: int,
    vocab: int,
    length: int = 1,
    eos_id: int | Sequence[int] | None = None,
    pad_id: int = 0,
    initial: Any = None,
    features: Any = None,
    param_dtype: str = "float32",
) -> Policy:
    """Free logits for each next token, given the prompt and all response tokens before it.

    Params are `{"logits": [prompts, prefixes, vocab]}`, or `[prompts, vocab]` if `length` is 1; the order of
    prefixes is that of `policies.response_tree`. The last real token of a prompt says which prompt it is,
    from 0 to `prompts - 1`. Log-probs are as good as any logits with the same softmax, so a known
    distribution is given as its logarithm.

    Args:
      prompts: number of prompts.
      vocab: number of tokens a response may hold, EOS included.
      length: most tokens of a response. Sampling stops there, whatever `max_tokens` is.
      eos_id: the token, or the tokens, that end a response and count as part of it; None: all have `length`
        tokens.
      pad_id: fills what comes after EOS.
      initial: logits that `init` returns, nested sequences or an array; None: standard normal ones. With
        `features`, weights.
      features: one feature vector for each logit, `[vocab, features]` (the same for all prompts) or
        `[prompts, vocab, features]`, for responses of one token: the policy is log-linear, its logits are
        `features @ weights`, and its params are `{"weights": [features]}`. What responses share, they
        learn together. None: every logit is a parameter.
      param_dtype: "float32", or "float64" where 64-bit types are on.
    """
    if param_dtype not in ("float32", "float64"):
        raise ValueError(f"tabular.param_dtype: expected 'float32' or 'float64', got {param_dtype!r}")
    tree = ResponseTree(vocab, length, eos_id, pad_id)
    _check_size(prompts, tree)
    known = _known_features(features, prompts, vocab, length)
    given = None if initial is None else np.asarray(initial, np.float64)
    table = SoftmaxTable(prompts, tree, known, given, param_dtype)
    drawn = sampler(Decoder(table.prefill, table.step), eos_id=eos_id, pad_id=pad_id)

    def sample(
        params: Params, prompts: Prompts, key: PRNGKey, *, max_tokens: int = length, **settings: Any
    ) -> Samples:
        return drawn(params, prompts, key, max_tokens=min(max_tokens, length), **settings)

    return Policy(
        init=table.init,
        token_logps=lambda params, batch: table.quantities(params, batch, ("token_logps",))["token_logps"],
        sample=sample,
        axes=lambda: {table.name: (None,) * len(table.shape)},
        flops=lambda batch: float(batch.response_tokens.size * vocab),
        vocab_size=max(prompts, vocab),
        quantities=table.quantities,
        offers=tuple(STATISTICS),
        enumerate=tree.responses,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class SoftmaxTable:
    """Logits of the next token after each prefix, free or log-linear in features."""

    prompts: int
    tree: ResponseTree
    features: Float[np.ndarray, "x v f"] | None  # None: every logit is a parameter
    initial: Float[np.ndarray, "*shape"] | None  # of the one array of params; None: standard normal
    param_dtype: str

    def __post_init__(self) -> None:
        given = self.shape if self.initial is None else self.initial.shape
        if given != self.shape:
            raise ValueError(f"tabular.initial: expected {self.name} of shape {self.shape}, got {given}")

    @property
    def name(self) -> str:
        return "logits" if self.features is None else "weights"

    @property
    def shape(self) -> tuple[int, ...]:
        if self.features is not None:
            return self.features.shape[-1:]
        levels = () if self.tree.length == 1 else (self.tree.prefixes,)
        return (self.prompts, *levels, self.tree.vocab)

    def init(self, key: PRNGKey) -> Params:
        dtype = jax.dtypes.canonicalize_dtype(self.param_dtype)
        if dtype.name != self.param_dtype:
            raise ValueError("tabular.param_dtype: float64 needs 64-bit types; set JAX_ENABLE_X64=1")
        if self.initial is None:
            return {self.name: jax.random.normal(key, self.shape, dtype)}
        return {self.name: jnp.asarray(self.initial, dtype)}

    def logits(self, params: Params) -> Float[Array, "x n v"]:
        free = params[self.name]
        logits = free if self.features is None else jnp.asarray(self.features, free.dtype) @ free
        return logits.reshape(self.prompts, self.tree.prefixes, self.tree.vocab)

    def rows(self, params: Params, batch: Completions) -> Float[Array, "b k r v"]:
        """Logits of the distribution that each token of the batch was drawn from."""
        r = batch.response_tokens.shape[-1]
        if r > self.tree.length:
            raise ValueError(
                f"tabular: responses of up to {r} tokens, but the table has length={self.tree.length}"
            )
        before = self.tree.before(batch.response_tokens)
        return self.logits(params)[_which(batch)[:, None, None], before]

    def quantities(
        self,
        params: Params,
        batch: Completions,
        names: tuple[str, ...],
        reference_params: Params | None = None,
        key: PRNGKey | None = None,
    ) -> dict[str, Array]:
        """`Policy.quantities`."""
        del key  # there is no noise in it
        statistics = tuple(n for n in names if n != "token_logps")
        unknown = [n for n in statistics if n not in STATISTICS]
        if unknown:
            raise ValueError(f"tabular: no {', '.join(unknown)}; there are {', '.join(STATISTICS)}")
        kept, reference_logits = Rows(batch.response_tokens, batch.response_mask, self.tree.vocab), None
        if set(statistics) & set(KL):
            if reference_params is None:
                raise ValueError(f"{statistics}: a KL needs the params of the reference")
            reference_logits = kept.flat(jax.lax.stop_gradient(self.rows(reference_params, batch)))
        values = logits_scores(
            statistics, kept.flat(self.rows(params, batch)), kept.targets, reference_logits
        )
        scored: Any = kept.results(values, statistics)
        return {"token_logps": scored[0], **scored[1]} if statistics else {"token_logps": scored}

    def prefill(
        self, params: Params, asked: Prompts, *, num_samples: int, max_tokens: int
    ) -> tuple[Any, Float[Array, "b v"]]:
        """`sampling.Decoder.prefill`: the cache is which prompt it is, and the prefix so far."""
        which = _which(asked)
        node = jnp.zeros((*which.shape, num_samples), jnp.int32)
        return (which, node), self.logits(params)[which, 0]

    def step(
        self, params: Params, cache: Any, tokens: Array, index: Array
    ) -> tuple[Any, Float[Array, "b k v"]]:
        """`sampling.Decoder.step`."""
        which, node = cache
        node = self.tree.child(node, tokens)
        return (which, node), self.logits(params)[which[:, None], node]


def enumerated(policy: Policy, prompts: Prompts) -> Completions:
    """All responses of a policy to each prompt, `k` of them: their probabilities sum to 1.

    For exact expectations: `(jnp.exp(policy.token_logps(params, batch).sum(-1)) * f).sum(-1)`. In
    lexicographic order of their tokens.
    """
    if policy.enumerate is None:
        raise ValueError("enumerated: this policy has too many responses to list; a tabular policy has few")
    return policy.enumerate(prompts)


def _check_size(prompts: int, tree: ResponseTree) -> None:
    vocab, length = tree.vocab, tree.length
    if prompts < 1 or vocab < 1 or length < 1:
        raise ValueError(
            f"tabular: prompts, vocab and length must be at least 1, got {prompts}, {vocab} and {length}"
        )
    for end in end_ids(tree.eos_id):
        if not 0 <= end < vocab:
            raise ValueError(f"tabular.eos_id: expected None or an id below {vocab}, got {end}")
    entries = prompts * tree.prefixes * vocab
    if entries > _MOST_ENTRIES:
        raise ValueError(
            f"tabular: {prompts} prompts and responses of up to {length} of {vocab} tokens need "
            f"{entries:.1e} logits, more than {_MOST_ENTRIES:.0e}; make one smaller"
        )


def _known_features(features: Any, prompts: int, vocab: int, length: int) -> np.ndarray | None:
    """`[prompts, vocab, features]`, or None."""
    if features is None:
        return None
    given = np.asarray(features, np.float64)
    if length != 1 or given.ndim not in (2, 3) or given.shape[:-1] not in ((vocab,), (prompts, vocab)):
        raise ValueError(
            f"tabular.features: expected [{vocab}, features] or [{prompts}, {vocab}, features] for responses "
            f"of one token, got shape {given.shape} and length={length}"
        )
    return np.broadcast_to(given, (prompts, vocab, given.shape[-1]))


def _which(batch: Prompts | Completions) -> Int[Array, " b"]:
    """The last real token of each prompt."""
    last = jnp.maximum(batch.prompt_mask.sum(-1) - 1, 0)
    return jnp.take_along_axis(batch.prompt_tokens, last[:, None], 1)[:, 0]
