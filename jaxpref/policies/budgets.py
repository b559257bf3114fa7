"""Agents with limited and latent planning horizons: mixtures over horizons, fitted by imitation."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpref.planning import World, values, with_weights
from jaxpref.planning.budgets import budget_logps, per_decision
from jaxpref.planning.roads import Planner, RoadGraph, horizon_stack, sweeps
from jaxpref.policies.arcs import ArcCosts, known_arcs
from jaxpref.policies.base import Policy, answers_no_prompts
from jaxpref.policies.lookahead import Lookahead
from jaxpref.policies.regions import check_routes
from jaxpref.policies.routes import route_logps
from jaxpref.policies.states import check_states
from jaxpref.types import Params, PRNGKey, Segments

__all__ = ["LatentHorizons", "boltzmann_agents", "latent_budgets", "latent_horizons"]


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
    """A mixture of planners with different budgets, with shares of its own for each agent: arXiv:2312.04030.

    p(a | s) = sum_b softmax(eta_agent)_b pi_b(a | s). Params are `{"budget_logits": [agents, budgets]}`, eta,
    and, where rewards are learned too, `{"weights": [m]}`. Trained by `algorithms.sft` on `Segments` whose
    column `annotators` says whose they are (absent: agent 0); a Gaussian prior is the optimizer's
    weight decay. Where budgets agree on every action that was seen, eta is not identified.

    Args:
      world: where they act; its weights are the rewards they plan with, unless `learn_weights`.
      budgets: numbers of steps looked ahead.
      mixture: `planning.budgets.per_decision` or `per_trajectory` (which one the paper has is not verified).
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


def latent_horizons(
    *,
    graph: Callable[[], RoadGraph],
    features: Callable[[], Any],
    initial: Any,
    horizons: Sequence[int],
    agents: int = 1,
    mixture: Callable[..., Any] = per_decision,
    learn_costs: bool = False,
    planner: Planner = sweeps,
    arcs_table: bool = False,
    hidden: tuple[int, ...] = (),
    param_dtype: str = "float32",
) -> Policy:
    """`latent_budgets` on roads: drivers whose budget is the horizon of `route_planner` (arXiv:2312.04030).

    A budget is a number of soft steps before the cheapest path; all horizons are levels of one run of sweeps
    for the longest. Params are `{"budget_logits": [agents, horizons]}`, and where costs are learned too those
    of the route planner. With all of an agent's probability on one horizon it is that planner exactly.

    Args:
      graph, features, initial, planner, arcs_table, hidden, param_dtype: as `policies.routes.route_planner`
        has them; without `learn_costs` the initial costs are what drivers plan with.
      horizons: 1 or more each.
      mixture: as `latent_budgets` has it.
    """
    if agents < 1 or not horizons or min(horizons) < 1:
        raise ValueError(
            f"latent_horizons: expected agents, and horizons of 1 or more, got {agents} and {tuple(horizons)}"
        )
    net = graph()
    Lookahead(net, max(horizons), planner)  # says now what is wrong with them
    costs = ArcCosts(*known_arcs(net, features, initial), arcs_table, hidden, (), param_dtype)
    drivers = LatentHorizons(net, costs, tuple(horizons), agents, mixture, learn_costs, planner)
    return Policy(
        drivers.init,
        drivers.token_logps,
        sample=answers_no_prompts,
        axes=lambda: {"budget_logits": (None, None)} | (costs.axes() if learn_costs else {}),
        flops=lambda batch: 0.0,
        vocab_size=net.num_arcs,
        check=partial(check_routes, graph=net),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class LatentHorizons:
    """Log-probs of routes under a mixture of horizons, all of them levels of one run of sweeps."""

    graph: RoadGraph
    costs: ArcCosts
    horizons: tuple[int, ...]
    agents: int
    mixture: Callable[..., Any]
    learn_costs: bool  # else the initial costs are what all plan with
    planner: Planner

    def init(self, key: PRNGKey) -> Params:
        known = self.costs.init(key)
        logits = jnp.zeros((self.agents, len(self.horizons)), known["weights"].dtype)
        return {"budget_logits": logits} | (known if self.learn_costs else {})

    def token_logps(self, params: Params, batch: Segments) -> Float[Array, "b k t"]:
        b, k, t = batch.mask.shape
        of_arcs = self.costs.costs(params if self.learn_costs else self.costs.init(jax.random.key(0)))
        ends = batch.observations[:, :, 0, 1].reshape(b * k)
        pairs = horizon_stack(self.graph, -of_arcs, ends, self.horizons, self.planner)
        routes = (batch.actions.reshape(b * k, t), batch.mask.reshape(b * k, t))
        steps = jax.vmap(lambda pair: route_logps(self.graph, of_arcs, *routes, *pair), out_axes=-1)(pairs)
        prior = jax.nn.log_softmax(params["budget_logits"], -1)[_agents(batch)][:, None]
        prior = jnp.broadcast_to(prior, (b, k, len(self.horizons)))
        return self.mixture(prior, steps.reshape(b, k, t, -1), batch.mask)


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
