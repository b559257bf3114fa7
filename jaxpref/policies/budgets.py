"""Agents who plan only so far ahead, how far being latent: the policy that imitation fits to them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpref.planning import World, values, with_weights
from jaxpref.planning.budgets import budget_logps, per_decision
from jaxpref.policies.base import Policy, answers_no_prompts
from jaxpref.policies.states import check_states
from jaxpref.types import Params, PRNGKey, Segments

__all__ = ["boltzmann_agents", "latent_budgets"]


def latent_budgets(
    *,
    world: Callable[[], World],
    budgets: Sequence[int],
    agents: int = 1,
    mixture: Callable[..., Any] = per_decision,
    temperature: float = 1.0,
    learn_weights: bool = False,
    initial: Any = None,
) -> Policy:
    """A mixture of planners with different budgets, for each agent its own: arXiv:2312.04030.

    p(a | s) = sum_b softmax(eta_agent)_b pi_b(a | s). Params are `{"budget_logits": [agents, budgets]}`, eta,
    and, where rewards are learned too, `{"weights": [m]}`. Trained by `algorithms.sft` on `Segments` whose
    column `annotators` says whose they are (absent: agent 0); a Gaussian prior is the optimizer's
    weight decay. Where budgets agree on every action that was seen, eta is not identified.

    Args:
      world: where they act; its weights are the rewards they plan with, unless `learn_weights`.
      budgets: numbers of steps looked ahead.
      mixture: `planning.budgets.per_decision` (the paper's) or `per_trajectory`.
      temperature: of each planner's choice.
      initial: weights that `init` returns where they are learned; None: zeros.
    """
    known = world()
    states, actions, size = known.features.shape
    if agents < 1 or not budgets or not temperature > 0:
        raise ValueError(
            f"latent_budgets: expected agents, budgets and a temperature above 0, got {agents}, "
            f"{tuple(budgets)} and {temperature}"
        )
    budget_logps(known.mdp, budgets)  # says now what is wrong with them
    given = np.zeros(size) if initial is None else np.asarray(initial, np.float64)

    def init(key: PRNGKey) -> Params:
        del key
        params = {"budget_logits": jnp.zeros((agents, len(budgets)), known.features.dtype)}
        return params | ({"weights": jnp.asarray(given, known.features.dtype)} if learn_weights else {})

    def token_logps(params: Params, batch: Segments) -> Float[Array, "b k t"]:
        mdp = with_weights(known, params["weights"]) if learn_weights else known.mdp
        table = jnp.moveaxis(budget_logps(mdp, budgets, temperature=temperature), 0, -1)
        prior = jax.nn.log_softmax(params["budget_logits"], -1)[_agents(batch)][:, None]
        steps = table[batch.observations, batch.actions]
        return mixture(jnp.broadcast_to(prior, (*steps.shape[:2], len(budgets))), steps, batch.mask)

    return Policy(
        init,
        token_logps,
        sample=answers_no_prompts,
        axes=lambda: {"budget_logits": (None, None)} | ({"weights": (None,)} if learn_weights else {}),
        flops=lambda batch: 2.0 * max(budgets) * states * states * actions,
        vocab_size=actions,
        check=partial(check_states, states=states, terminal=known.mdp.terminal),
    )


def boltzmann_agents(*, world: Callable[[], World], agents: int = 1) -> Policy:
    """Agents who plan to the end and choose by softmax(Q* / temperature), each with a temperature of its own.

    The usual account of imperfect choice, beside `latent_budgets`. Params `{"log_temperatures": [agents]}`.
    """
    known = world()
    actions = known.mdp.rewards.shape[1]
    q = values(known.mdp)[1]

    def token_logps(params: Params, batch: Segments) -> Float[Array, "b k t"]:
        scale = jnp.exp(params["log_temperatures"])[_agents(batch)]
        logps = jax.nn.log_softmax(q[batch.observations] / scale[:, None, None, None], -1)
        taken = jnp.take_along_axis(logps, batch.actions[..., None], -1)[..., 0]
        return jnp.where(batch.mask, taken, 0)

    return Policy(
        init=lambda key: {"log_temperatures": jnp.zeros(agents, q.dtype)},
        token_logps=token_logps,
        sample=answers_no_prompts,
        axes=lambda: {"log_temperatures": (None,)},
        flops=lambda batch: 0.0,
        vocab_size=actions,
        check=partial(check_states, states=len(q), terminal=known.mdp.terminal),
    )


def _agents(batch: Segments) -> Array:
    none = jnp.zeros(batch.mask.shape[0], jnp.int32)
    return batch.columns.get("annotators", none)
