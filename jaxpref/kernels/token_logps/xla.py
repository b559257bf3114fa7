"""The formulations that XLA compiles well: folds over the vocabulary and the gradients that go with them.

`fold(head, x, block)` gives the carry, and what the gradient wants kept; `gradient(...)` recomputes logits
block by block, except where they were kept. A tile of the gradient is cast to the dtype of the hidden states
before it is multiplied: float32 tiles beside bfloat16 weights would make both products slow ones. Gradients
are accumulated in float32; the caller casts them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxpref.kernels.token_logps import fold
from jaxpref.kernels.token_logps.head import Gradients, Head, Operands, Summed, hits, over_blocks, part, pick

__all__ = [
    "column_block",
    "materialized_fold",
    "materialized_gradient",
    "product",
    "token_scan_fold",
    "token_scan_gradient",
    "vocab_scan_fold",
    "vocab_scan_gradient",
    "wide_dtype",
]

Kept = tuple[Array, Array | None] | None
Wanted = tuple[str, ...]


def wide_dtype(x: Operands) -> jnp.dtype:
    """float32, or that of the hidden states where it is wider.

    Returns:
      The dtype that sums over the vocabulary are made in.

    Example:
      >>> from jaxpref.kernels.token_logps.head import Operands
      >>> x = Operands(jnp.ones((1, 1), jnp.bfloat16), jnp.ones((2, 1), jnp.bfloat16), jnp.array([1]))
      >>> print(wide_dtype(x))
      float32
    """
    return jnp.promote_types(x.hidden.dtype, jnp.float32)


def _both(head: Head, x: Operands) -> tuple[Array, Array | None]:
    """Logits of the policy and of the reference. The head's cap and temperature are those of both."""
    logits = head.logits(x.hidden, x.weight, x.bias)
    return logits, None if x.reference is None else head.logits(*x.reference)


def column_block(x: Operands, begin: Array | int, size: int) -> Operands:
    """The operands of a block of the vocabulary; targets count from its start.

    Returns:
      Operands with `size` rows of weights, targets -1 and below or `size` and above being outside.

    Example:
      >>> from jaxpref.kernels.token_logps.head import Operands
      >>> x = Operands(jnp.ones((1, 1)), jnp.array([[0.0], [1.0], [2.0]]), jnp.array([2]))
      >>> block = column_block(x, 1, 2)
      >>> print(block.weight[:, 0], block.targets)
      [1.0000 2.0000] [1]
    """
    return Operands(
        x.hidden,
        part(x.weight, begin, size),
        x.targets - begin,
        None if x.bias is None else part(x.bias, begin, size),
        None if x.reference is None else (x.reference[0], part(x.reference[1], begin, size)),
    )


def _rows(x: Operands, begin: Array | int, size: int) -> Operands:
    """The operands of a block of tokens."""
    return x._replace(
        hidden=part(x.hidden, begin, size),
        targets=part(x.targets, begin, size),
        reference=None if x.reference is None else (part(x.reference[0], begin, size), x.reference[1]),
    )


def put(whole: Array, some: Array, begin: Array | int) -> Array:
    """`whole` with `some` from row `begin` on."""
    return jax.lax.dynamic_update_slice_in_dim(whole, some.astype(whole.dtype), begin, 0)


def _delta(head: Head, x: Operands, outputs: dict, upstream: dict, kept: Kept) -> Array:
    """Gradient with respect to the products of hidden states and weights of this block."""
    logits, reference_logits = _both(head, x) if kept is None else kept
    hit = hits(x.targets, logits.shape[1])
    gradient = fold.logits_gradient(outputs, upstream, logits, hit, reference_logits)
    return head.before_cap(gradient, logits)


def product(a: Array, b: Array, axis: int) -> Array:
    """The sum over `axis` of `a` and axis 0 of `b`, float32 inputs as float32.

    Returns:
      `[m, n]`, float32 or wider.

    Example:
      >>> print(product(jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]]), 1))
      [[11.0000]]
    """
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return jax.lax.dot_general(
        a, b, (((axis,), (0,)), ((), ())), precision=exact, preferred_element_type=wide
    )


def _products(x: Operands, delta: Array, wanted: Wanted) -> Gradients:
    """What a tile of `_delta` adds to each gradient, summed in float32."""
    small = delta.astype(x.hidden.dtype)
    gradients = {}
    if "hidden" in wanted:
        gradients["hidden"] = product(small, x.weight.astype(x.hidden.dtype), 1)
    if "weight" in wanted:
        gradients["weight"] = product(small, x.hidden, 0)
    if "bias" in wanted:
        gradients["bias"] = delta.sum(0)
    return gradients


def _no_weights(x: Operands, summed: Summed | None) -> Array:
    """Room for the gradient of the weights, each block of which is written once: in their dtype, or where it
    is summed over devices in float32 or wider."""
    if summed is None:
        return jnp.zeros_like(x.weight)
    return jnp.zeros(
        jax.eval_shape(summed, jax.ShapeDtypeStruct(x.weight.shape, wide_dtype(x))).shape, wide_dtype(x)
    )


# Logits kept: one matmul forward, two backward, and `n v` floats in between.


def materialized_fold(head: Head, x: Operands, block: int) -> tuple[fold.Carry, Kept]:
    """The fold over all logits at once. `block` is not used.

    Returns:
      The carry, and the logits `[n, v]` of the policy and of the reference, kept for the gradient.

    Example:
      >>> from jaxpref.kernels.token_logps import fold, xla
      >>> from jaxpref.kernels.token_logps.head import Head, Operands
      >>> x = Operands(jnp.ones((1, 1)), jnp.log(jnp.array([[0.25], [0.75]])), jnp.array([1]))
      >>> carry, (logits, _) = xla.materialized_fold(Head(), x, 0)
      >>> print(jnp.exp(logits), jnp.exp(fold.finish(carry)["logps"]))
      [[0.2500 0.7500]] [[0.7500]]
    """
    del block
    logits, reference_logits = _both(head, x)
    carry = fold.start(len(x.targets), head.statistics, logits.dtype)
    return fold.add(carry, logits, pick(logits, x.targets), reference_logits), (logits, reference_logits)


def materialized_gradient(
    head: Head,
    x: Operands,
    outputs: dict,
    upstream: dict,
    kept: Kept,
    wanted: Wanted,
    block: int,
    summed: Summed | None = None,
) -> Gradients:
    """Gradients of what is `wanted` ("hidden", "weight", "bias") from the logits kept.

    Args:
      outputs: of `fold.finish`. upstream: gradients of it, `[n, 1]` each.
      block: columns of the vocabulary whose gradient is made at a time where it is `summed`.
      summed: sums the gradient of some rows of the weights over devices (`placement.weight_sum`).

    Returns:
      Each gradient by name, in float32 or wider.

    Example:
      >>> from jaxpref.kernels.token_logps import fold, xla
      >>> from jaxpref.kernels.token_logps.head import Head, Operands
      >>> x = Operands(jnp.ones((1, 1)), jnp.log(jnp.array([[0.25], [0.75]])), jnp.array([1]))
      >>> carry, kept = xla.materialized_fold(Head(), x, 0)
      >>> given = (fold.finish(carry), {"logps": jnp.ones((1, 1))}, kept, ("weight",), 0)
      >>> print(xla.materialized_gradient(Head(), x, *given)["weight"].ravel())  # (0, 1) - (1/4, 3/4)
      [-0.2500 0.2500]
    """
    delta = _delta(head, x, outputs, upstream, kept)
    if summed is None or "weight" not in wanted:
        return _products(x, delta, wanted)
    small = delta.astype(x.hidden.dtype)

    def body(whole: Array, begin: Array | int, size: int) -> Array:
        some = small if size == small.shape[1] else jax.lax.dynamic_slice_in_dim(small, begin, size, 1)
        return put(whole, summed(product(some, x.hidden, 0)), begin)

    gradients = _products(x, delta, tuple(name for name in wanted if name != "weight"))
    weight = over_blocks(small.shape[1], block or small.shape[1], body, _no_weights(x, summed))
    return gradients | {"weight": weight}


# Blocks of the vocabulary: the gradient of hidden states is carried, each block of weights is done once.


def vocab_scan_fold(head: Head, x: Operands, block: int) -> tuple[fold.Carry, Kept]:
    """The fold over blocks of `block` columns of the vocabulary.

    Returns:
      The carry, and None: no logits are kept.

    Example:
      >>> from jaxpref.kernels.token_logps import fold, xla
      >>> from jaxpref.kernels.token_logps.head import Head, Operands
      >>> x = Operands(jnp.ones((1, 1)), jnp.log(jnp.array([[0.25], [0.75]])), jnp.array([1]))
      >>> carry, _ = xla.vocab_scan_fold(Head(), x, 1)
      >>> print(jnp.exp(fold.finish(carry)["logps"]))
      [[0.7500]]
    """

    def body(carry: fold.Carry, begin: Array | int, size: int) -> fold.Carry:
        columns = column_block(x, begin, size)
        logits, reference_logits = _both(head, columns)
        return fold.add(carry, logits, pick(logits, columns.targets), reference_logits)

    empty = fold.start(len(x.targets), head.statistics, wide_dtype(x))
    return over_blocks(x.weight.shape[0], block, body, empty), None


def vocab_scan_gradient(
    head: Head,
    x: Operands,
    outputs: dict,
    upstream: dict,
    kept: Kept,
    wanted: Wanted,
    block: int,
    summed: Summed | None = None,
) -> Gradients:
    """`materialized_gradient` with logits recomputed, `block` columns of the vocabulary at a time.

    Returns:
      Each gradient by name: of weights in their dtype, else in float32 or wider.

    Example:
      >>> from jaxpref.kernels.token_logps import fold, xla
      >>> from jaxpref.kernels.token_logps.head import Head, Operands
      >>> x = Operands(jnp.ones((1, 1)), jnp.log(jnp.array([[0.25], [0.75]])), jnp.array([1]))
      >>> carry, kept = xla.vocab_scan_fold(Head(), x, 1)
      >>> given = (fold.finish(carry), {"logps": jnp.ones((1, 1))}, kept, ("weight",), 1)
      >>> print(xla.vocab_scan_gradient(Head(), x, *given)["weight"].ravel())  # (0, 1) - (1/4, 3/4)
      [-0.2500 0.2500]
    """
    del kept

    def body(carry: Gradients, begin: Array | int, size: int) -> Gradients:
        columns = column_block(x, begin, size)
        more = _products(columns, _delta(head, columns, outputs, upstream, None), wanted)
        if summed is not None and "weight" in more:
            more["weight"] = summed(more["weight"])
        return {
            name: whole + more[name] if name == "hidden" else put(whole, more[name], begin)
            for name, whole in carry.items()
        }

    empty = {}
    if "hidden" in wanted:
        empty["hidden"] = jnp.zeros(x.hidden.shape, wide_dtype(x))
    if "weight" in wanted:
        empty["weight"] = _no_weights(x, summed)
    if "bias" in wanted:
        empty["bias"] = jnp.zeros(x.weight.shape[:1], wide_dtype(x))
    return over_blocks(x.weight.shape[0], block, body, empty)


# Blocks of tokens: the gradient of the weights is carried, in float32.


def token_scan_fold(
    head: Head, x: Operands, block: int, fold_rows: Callable[[Head, Operands], fold.Carry] | None = None
) -> tuple[fold.Carry, Kept]:
    """The fold over all logits of `block` tokens at a time.

    Args:
      fold_rows: folds one block, as a kernel may; None takes `materialized_fold`.

    Returns:
      The carry, and None: no logits are kept.

    Example:
      >>> from jaxpref.kernels.token_logps import fold, xla
      >>> from jaxpref.kernels.token_logps.head import Head, Operands
      >>> x = Operands(jnp.ones((2, 1)), jnp.log(jnp.array([[0.25], [0.75]])), jnp.array([0, 1]))
      >>> carry, _ = xla.token_scan_fold(Head(), x, 1)
      >>> print(jnp.exp(fold.finish(carry)["logps"]).ravel())
      [0.2500 0.7500]
    """

    def body(carry: fold.Carry, begin: Array | int, size: int) -> fold.Carry:
        rows = _rows(x, begin, size)
        some = materialized_fold(head, rows, size)[0] if fold_rows is None else fold_rows(head, rows)
        return {name: put(whole, some[name], begin) for name, whole in carry.items()}

    empty = fold.start(len(x.targets), head.statistics, wide_dtype(x))
    return over_blocks(len(x.targets), block, body, empty), None


def token_scan_gradient(
    head: Head,
    x: Operands,
    outputs: dict,
    upstream: dict,
    kept: Kept,
    wanted: Wanted,
    block: int,
    summed: Summed | None = None,
) -> Gradients:
    """`materialized_gradient` with logits recomputed, `block` tokens at a time.

    Returns:
      Each gradient by name: of hidden states in their dtype, else in float32 or wider.

    Example:
      >>> from jaxpref.kernels.token_logps import fold, xla
      >>> from jaxpref.kernels.token_logps.head import Head, Operands
      >>> x = Operands(jnp.ones((2, 1)), jnp.log(jnp.array([[0.25], [0.75]])), jnp.array([1, 1]))
      >>> carry, kept = xla.token_scan_fold(Head(), x, 1)
      >>> given = (fold.finish(carry), {"logps": jnp.ones((2, 1))}, kept, ("weight",), 1)
      >>> print(xla.token_scan_gradient(Head(), x, *given)["weight"].ravel())  # twice (0, 1) - (1/4, 3/4)
      [-0.5000 0.5000]
    """
    del kept

    def body(carry: Gradients, begin: Array | int, size: int) -> Gradients:
        rows = _rows(x, begin, size)
        here, given = (
            {k: part(a, begin, size) for k, a in rows_of.items()} for rows_of in (outputs, upstream)
        )
        more = _products(rows, _delta(head, rows, here, given, None), wanted)
        return {
            name: put(whole, more[name], begin) if name == "hidden" else whole + more[name]
            for name, whole in carry.items()
        }

    empty = {}
    if "hidden" in wanted:
        empty["hidden"] = jnp.zeros_like(x.hidden)
    if "weight" in wanted:
        empty["weight"] = jnp.zeros(x.weight.shape, wide_dtype(x))
    if "bias" in wanted:
        empty["bias"] = jnp.zeros(x.weight.shape[:1], wide_dtype(x))
    gradients = over_blocks(len(x.targets), block, body, empty)
    if summed is not None and "weight" in wanted:
        gradients["weight"] = summed(gradients["weight"])
    return gradients
