"""Several sets of adapters above one base: they learn apart, and act as their average."""

import dataclasses
from collections.abc import Callable, Mapping, Set
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpref import keys
from jaxpref.metrics import widened
from jaxpref.policies.base import Members, Policy
from jaxpref.trees import flat, nested
from jaxpref.types import Params, PRNGKey

__all__ = ["ensemble"]


def ensemble(*, policy: Callable[[], Policy] | Policy, members: int) -> Policy:
    """`members` of a policy of adapters (arXiv:2406.12168), which sample and are evaluated as their average.

    Params are those of the policy with the members on a new first axis. Each begins with adapters of its own;
    a step of `offline`, `online` or `sft` computes the loss of each member and updates it by the gradient of
    that alone, as if it were trained by itself on the same batches. Everything else is done with the average:
    sampling, evaluation, rewards, references and whatever follows the policy (`algorithms.copies`), which
    keeps all members and is averaged when it is used. So BPO's behaviour policy, the average "re-merged" at
    the start of a phase, is `copied`.

    The average is exact: the mean of the changes of weights, `mean_i scale * a_i @ b_i`, which is one adapter
    of `members` times the rank. Where members differ, each has a margin over the average that is not 0, so
    a loss whose reference is the current average is log 2 only where they are equal.

    Args:
      policy: builds one of them, such as a partial of `policies.adapted.adapted`; outermost, so around
        `comparing`, where there is one.
      members: 1 or more.

    Raises:
      ValueError: the policy keeps no base beside its params (each member would have a model of its own), or
        is an ensemble already.

    *Differs from* PEFT's `add_weighted_adapter(combination_type="linear")`, which the released code merges
    with: that averages `a` and `b` each by itself (times the root of a weight), and the product of two means
    is not the mean of the products. And there members were fine-tuned in runs of their own; here all stages
    train all members, on the same batches in the same order, with the same inputs dropped (`LoRA.dropout`).
    """
    inner = policy() if callable(policy) else policy
    if members < 1:
        raise ValueError(f"ensemble.members: expected 1 or more, got {members}")
    if inner.constants is None or inner.members is not None:
        raise ValueError("ensemble: give a policy of adapters above a base (policies.adapted), one of them")
    names = flat(jax.eval_shape(inner.init, jax.random.key(0))).keys()
    stack = _Stack(inner, members, frozenset(names))

    def acting(function: Callable[..., Any] | None) -> Any:
        return None if function is None else lambda params, *a, **k: function(stack.average(params), *a, **k)

    return inner._replace(
        init=stack.init,
        axes=stack.axes,
        given=None if inner.given is None else stack.given,
        token_logps=acting(inner.token_logps),
        sample=stack.sample,
        stream=acting(inner.stream),
        summed_loss=acting(inner.summed_loss),
        quantities=None if inner.quantities is None else stack.quantities,
        act=acting(inner.act),
        explain=acting(inner.explain),
        members=Members(members, inner, stack.average),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Stack:
    inner: Policy
    size: int
    names: Set[str]  # of the arrays that every member has its own of

    def init(self, key: PRNGKey) -> Params:
        return jax.vmap(lambda i: self.inner.init(keys.fold(key, "members", i)))(jnp.arange(self.size))

    def axes(self) -> Any:
        return nested({name: (None, *axes) for name, axes in flat(self.inner.axes()).items()})

    def given(self) -> Params:
        assert self.inner.given is not None
        arrays = jax.tree.map(np.asarray, self.inner.given())
        return jax.tree.map(lambda x: np.broadcast_to(x, (self.size, *x.shape)), arrays)

    def average(self, params: Params) -> Params:
        """Params of one policy that computes with the mean of the members' weights; what lies beside them
        stays."""
        leaves = flat(params)
        return nested(leaves | _averaged({name: x for name, x in leaves.items() if name in self.names}))

    def sample(self, params: Any, *arguments: Any, **settings: Any) -> Any:
        mixed = isinstance(params, tuple)
        averages = tuple(map(self.average, params)) if mixed else self.average(params)
        return self.inner.sample(averages, *arguments, **settings)

    def quantities(
        self, params: Params, batch: Any, names: tuple[str, ...], reference: Params | None, key: Any
    ) -> dict[str, Any]:
        assert self.inner.quantities is not None
        reference = None if reference is None else self.average(reference)
        return self.inner.quantities(self.average(params), batch, names, reference, key)


@jax.jit
def _averaged(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Of arrays by dotted name, with the members on the first axis."""
    return {name: _average(name.rpartition(".")[2], x) for name, x in leaves.items()}


def _average(kind: str, x: Any) -> Any:
    members = x.shape[0]
    if kind == "lora_a":  # [members, ..., inputs, rank] -> [..., inputs, members * rank]
        return jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1)
    if kind == "lora_b":  # [members, ..., rank, outputs] -> [..., members * rank, outputs]
        return jnp.moveaxis(x / members, 0, -3).reshape(*x.shape[1:-2], -1, x.shape[-1])
    return widened(x).mean(0).astype(x.dtype)
