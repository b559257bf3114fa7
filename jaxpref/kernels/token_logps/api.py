"""What the rest of the library calls: log-probs of given tokens, from hidden states or from logits."""

from typing import Literal, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpref.kernels.partition import partition_of
from jaxpref.kernels.token_logps.dispatch import Shape, plan_for
from jaxpref.kernels.token_logps.fold import KL, STATISTICS
from jaxpref.kernels.token_logps.head import Head, Operands
from jaxpref.kernels.token_logps.primitive import Call, scores
from jaxpref.kernels.token_logps.reference import logits_scores, reference_scores
from jaxpref.kernels.token_logps.rows import ROW_IMPLEMENTATIONS, RowCall, row_scores

__all__ = ["Rows", "linear_logits", "linear_token_logps", "token_logps"]

Statistics = dict[str, Array]


@overload
def linear_token_logps(
    hidden: Float[Array, "*rows d"],
    unembedding: Float[Array, "v d"],
    targets: Int[Array, "*rows"],
    *,
    bias: Float[Array, " v"] | None = None,
    soft_cap: float | None = None,
    temperature: float = 1.0,
    where: Bool[Array, "*rows"] | None = None,
    statistics: tuple[()] = (),
    reference: tuple[Array, Array] | None = None,
    implementation: str | None = None,
    block: int | None = None,
) -> Float[Array, "*rows"]: ...


@overload
def linear_token_logps(
    hidden: Float[Array, "*rows d"],
    unembedding: Float[Array, "v d"],
    targets: Int[Array, "*rows"],
    *,
    bias: Float[Array, " v"] | None = None,
    soft_cap: float | None = None,
    temperature: float = 1.0,
    where: Bool[Array, "*rows"] | None = None,
    statistics: tuple[str, ...],
    reference: tuple[Array, Array] | None = None,
    implementation: str | None = None,
    block: int | None = None,
) -> tuple[Float[Array, "*rows"], Statistics]: ...


def linear_token_logps(
    hidden,
    unembedding,
    targets,
    *,
    bias=None,
    soft_cap=None,
    temperature=1.0,
    where=None,
    statistics=(),
    reference=None,
    implementation=None,
    block=None,
):
    """`log softmax(cap(hidden @ unembedding.T + bias) / temperature)[targets]`, float32 or wider.

    The logits are float32 whatever the inputs (a sum of 256 bfloat16 log-probs is off by most of a nat), and
    but for the implementations `reference` and `materialized` they never exist all at once. Gradients flow to
    `hidden`, `unembedding` and `bias`, of first order (`reference` has all orders and forward mode); what
    is not differentiated costs nothing.

    Args:
      bias: added to the products; entries of -inf take a token out of the vocabulary.
      soft_cap: `cap(x) = soft_cap * tanh(x / soft_cap)` (Gemma-2, arXiv:2408.00118 Sec. 2); None is identity.
      temperature: divides the capped logits.
      where: rows that count. The others give exactly 0, in value and in gradient, whatever they hold.
      statistics: names from `STATISTICS`, returned beside the log-probs as `{name: [*rows]}`.
      reference: (hidden `[*rows, e]`, unembedding `[v, e]`) of the policy that KL is taken to, under the
        same cap and temperature. Constants: no gradient flows to them.
      implementation: a name from `IMPLEMENTATIONS`; None decides from shapes and machine (`dispatch`).
      block: size of the implementation's blocks; None takes `block_sizes`.

    Returns:
      `[*rows]`, nats, 0 or less (with `statistics`, a pair of that and the dict). A target outside `[0, v)`
      gives NaN, unless `where` is False there; one whose logit is -inf gives -inf.

    Raises:
      ValueError: shapes disagree, or a name is unknown or cannot run here.

    Example:
      >>> from jaxpref.kernels.token_logps import linear_token_logps
      >>> hidden, unembedding = jnp.array([[1.0]]), jnp.log(jnp.array([[0.25], [0.75]]))
      >>> print(linear_token_logps(hidden, unembedding, jnp.array([1])))  # log(0.75)
      [-0.2877]
    """
    vocab = _check_operands(hidden, unembedding, targets, bias)
    _check_statistics(statistics, reference is not None)
    if reference is not None:
        _check_reference(reference, targets.shape, vocab)
    _check_positive(soft_cap=soft_cap, temperature=temperature)
    head, kept = Head(soft_cap, temperature, statistics), Rows(targets, where, vocab)
    pair = None
    if reference is not None and set(statistics) & set(KL):
        pair = (kept.flat(jax.lax.stop_gradient(reference[0])), jax.lax.stop_gradient(reference[1]))
    x = Operands(kept.flat(hidden), unembedding, kept.targets, bias, pair)
    return kept.results(_scores(head, x, implementation, block), statistics)


def token_logps(
    logits: Float[Array, "*rows v"],
    targets: Int[Array, "*rows"],
    *,
    where: Bool[Array, "*rows"] | None = None,
    statistics: tuple[str, ...] = (),
    implementation: Literal["xla", "pallas_tpu", "pallas_gpu", "reference"] | None = None,
):
    """`log softmax(logits)[targets]`, float32 or wider, of logits that exist already.

    Backward, the gradient takes the place of the logits where XLA may reuse them. `where`, `statistics` (but
    for KL) and out-of-range targets: as `linear_token_logps`, which needs far less memory and is the one to
    use where the logits come from a matmul.

    Returns:
      `[*rows]`, nats, 0 or less; with `statistics`, a pair of that and `{name: [*rows]}`.

    Raises:
      ValueError: shapes disagree, or a name is unknown or cannot run here.

    Example:
      >>> from jaxpref.kernels.token_logps import token_logps
      >>> logps, statistics = token_logps(jnp.zeros((1, 4)), jnp.array([2]), statistics=("entropy",))
      >>> print(logps, statistics["entropy"])  # log 4 both times
      [-1.3863] [1.3863]
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"token_logps: logits {logits.shape} and targets {targets.shape} do not fit")
    if implementation not in (None, *ROW_IMPLEMENTATIONS):
        raise ValueError(f"implementation={implementation!r}: there are {', '.join(ROW_IMPLEMENTATIONS)}")
    if set(statistics) & set(KL):
        raise ValueError("token_logps: KL needs hidden states of both policies; use linear_token_logps")
    _check_statistics(statistics, True)
    kept = Rows(targets, where, logits.shape[-1])
    flat = kept.flat(logits)
    if implementation == "reference":
        wide = flat.astype(jnp.promote_types(flat.dtype, jnp.float32))
        return kept.results(logits_scores(statistics, wide, kept.targets), statistics)
    return kept.results(row_scores(RowCall(statistics, implementation), flat, kept.targets), statistics)


def linear_logits(
    hidden: Float[Array, "*rows d"], unembedding: Float[Array, "v d"], *, soft_cap: float | None = None
) -> Float[Array, "*rows v"]:
    """`cap(hidden @ unembedding.T)`: what `linear_token_logps` takes the softmax of.

    For those who need all of it, as a sampler does for the last position.

    Args:
      soft_cap: `cap(x) = soft_cap * tanh(x / soft_cap)`; None is identity.

    Returns:
      `[*rows, v]`, float32 or wider.

    Example:
      >>> from jaxpref.kernels.token_logps import linear_logits
      >>> print(linear_logits(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0], [0.0, 1.0]])))
      [[11.0 2.0]]
    """
    flat = Head(soft_cap).logits(hidden.reshape(-1, hidden.shape[-1]), unembedding)
    return flat.reshape(*hidden.shape[:-1], -1)


def check_shapes(name: str, hidden: Array, unembedding: Array, targets: Array) -> None:
    """Raises ValueError unless the three fit one another."""
    if hidden.shape[:-1] != targets.shape or hidden.shape[-1] != unembedding.shape[-1]:
        raise ValueError(
            f"{name}: hidden {hidden.shape}, unembedding {unembedding.shape} and targets {targets.shape} do "
            "not fit; expected [..., d], [v, d] and [...]"
        )


def _scores(head: Head, x: Operands, implementation: str | None, block: int | None) -> dict[str, Array]:
    """By the implementation that is asked for, or one that fits the machine."""
    if implementation == "reference":
        return reference_scores(head, x)
    rows, (vocab, embed) = len(x.targets), x.weight.shape
    partition = partition_of(rows, vocab, embed)
    shape = Shape(rows // partition.row_shards, vocab // partition.vocab_shards, embed)
    plan = plan_for(shape, head.statistics, implementation=implementation, block=block)
    return scores(Call(head, plan, partition), x)


class Rows:
    """Rows as the primitives see them (`[n]`), and results as the caller does (`[*rows]`)."""

    def __init__(self, targets: Array, where: Array | None, vocab: int) -> None:
        if not jnp.issubdtype(targets.dtype, jnp.integer):
            raise ValueError(f"targets must be integers, not {targets.dtype}")
        if where is not None and where.shape != targets.shape:
            raise ValueError(f"where {where.shape} and targets {targets.shape} do not fit")
        flat = targets.reshape(-1)
        self.shape = targets.shape
        self.where = None if where is None else where.reshape(-1)
        self.valid = (flat >= 0) & (flat < vocab)
        self.targets = jnp.where(self.valid, flat, 0).astype(jnp.int32)

    def flat(self, x: Array) -> Array:
        """Rows that do not count become 0: what they hold (NaN, too) reaches neither value nor gradient."""
        x = x.reshape(-1, x.shape[-1])
        return x if self.where is None else jnp.where(self.where[:, None], x, 0)

    def results(self, outputs: dict[str, Array], statistics: tuple[str, ...]):
        def result(name: str) -> Array:
            x = outputs[name][:, 0]
            if name == "logps":
                x = jnp.where(self.valid, x, jnp.nan)
            if self.where is not None:
                x = jnp.where(self.where, x, jnp.zeros_like(x))
            return x.reshape(self.shape)

        logps = result("logps")
        return (logps, {name: result(name) for name in statistics}) if statistics else logps


def _check_operands(hidden: Array, unembedding: Array, targets: Array, bias: Array | None) -> int:
    """The size of the vocabulary."""
    check_shapes("linear_token_logps", hidden, unembedding, targets)
    vocab = unembedding.shape[0]
    if bias is not None and bias.shape != (vocab,):
        raise ValueError(f"linear_token_logps: bias {bias.shape}; expected one entry a token, ({vocab},)")
    return vocab


def _check_positive(**given: float | None) -> None:
    for name, value in given.items():
        if value is not None and not value > 0:
            raise ValueError(f"linear_token_logps: {name}={value}; expected a positive number")


def _check_statistics(statistics: tuple[str, ...], has_reference: bool) -> None:
    unknown = [name for name in statistics if name not in STATISTICS]
    if unknown:
        raise ValueError(f"statistics {unknown}: there are {', '.join(STATISTICS)}")
    if set(statistics) & set(KL) and not has_reference:
        raise ValueError(f"statistics {statistics}: KL needs reference=(hidden, unembedding)")


def _check_reference(reference: tuple[Array, Array], rows: tuple[int, ...], vocab: int) -> None:
    hidden, weight = reference
    if hidden.shape[:-1] != rows or weight.shape != (vocab, hidden.shape[-1]):
        raise ValueError(
            f"reference: hidden {hidden.shape} and unembedding {weight.shape} do not fit rows {rows} and a "
            f"vocabulary of {vocab}"
        )
