"""Drivers with a latent horizon: one budget is that planner, and shares are recovered from routes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from road_graphs import random_roads
from x64 import enable_x64

from jaxpref.algorithms import sft
from jaxpref.data.roads.routes import route_records
from jaxpref.environments.drivers import _soft_choices, horizon_ways
from jaxpref.planning import per_decision, per_trajectory
from jaxpref.policies.budgets import latent_horizons
from jaxpref.policies.routes import route_planner
from jaxpref.types import Segments

GRAPH, COSTS = random_roads(low=0.6, high=1.8)
SHARES = ((0.8, 0.2), (0.1, 0.9))


def network(build, **settings):
    """A policy that plans with the true costs."""
    return build(graph=lambda: GRAPH, features=lambda: COSTS[:, None], initial=1.0, **settings)


def driven(trips=20, **settings):
    routes, drivers = horizon_ways(GRAPH, COSTS, horizons=(1, 6), shares=SHARES, trips=trips, **settings)
    return route_records(GRAPH, routes, columns={"annotators": drivers})


@pytest.mark.parametrize("mixture", [per_decision, per_trajectory])
def test_one_budget_alone_is_that_planner(mixture):
    """Its log-probs and their slope in the costs: one run of sweeps against a rollout of its own."""
    batch, precise = driven().rows([0, 5, 25, -1]), partial(network, param_dtype="float64")
    with enable_x64(True):
        policy = precise(latent_horizons, horizons=(1, 3, 6), agents=2, mixture=mixture, learn_costs=True)
        params = policy.init(jax.random.key(0))
        slope = jax.jit(jax.value_and_grad(lambda p: policy.token_logps(p, batch).sum()))
        for i, horizon in enumerate((1, 3, 6)):
            found, mine = slope(params | {"budget_logits": jnp.broadcast_to(1e4 * jnp.eye(3)[i], (2, 3))})
            one = precise(route_planner, horizon=horizon)
            alone, own = jax.jit(jax.value_and_grad(lambda p, one=one: one.token_logps(p, batch).sum()))(
                {"weights": params["weights"]}
            )
            assert float(found) == pytest.approx(float(alone), abs=1e-12)
            np.testing.assert_allclose(mine["weights"], own["weights"], atol=1e-11)


def test_simulated_choices_are_the_planners():
    """Of every arc towards node 3, by plain loops and by the policy."""
    arcs = np.flatnonzero(GRAPH.tails != 3)
    steps = np.stack([GRAPH.tails[arcs], np.full(len(arcs), 3)], -1)[:, None, None]
    every = Segments(steps, arcs[:, None, None], np.ones((len(arcs), 1, 1), bool))
    chances, reached = _soft_choices(GRAPH, COSTS, 3, (1, 6))
    assert reached.all()
    for i, horizon in enumerate((1, 6)):
        policy = network(route_planner, horizon=horizon)
        found = jax.jit(policy.token_logps)(policy.init(jax.random.key(0)), every)[:, 0, 0]
        np.testing.assert_allclose(np.exp(found), chances[i, arcs], rtol=1e-4)


@pytest.mark.parametrize("per_step", [True, False])
def test_shares_are_recovered_from_routes(per_step):
    records = driven(trips=400, per_step=per_step)
    batch = records.rows(np.arange(len(records)))
    mixture = per_decision if per_step else per_trajectory
    policy = network(latent_horizons, horizons=(1, 6), agents=2, mixture=mixture)
    algorithm = sft(policy, optimizer=partial(optax.adam, 0.3))
    step, state = jax.jit(algorithm.step), algorithm.init(policy.init(jax.random.key(0)))
    for _ in range(30):
        state, _ = step(state, batch, jax.random.key(0))
    np.testing.assert_allclose(jax.nn.softmax(state.params["budget_logits"], -1), SHARES, atol=0.12)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r"horizons of 1 or more, got 1 and \(0, 3\)"):
        network(latent_horizons, horizons=(0, 3))
    with pytest.raises(ValueError, match="a probability for each of 2 horizons"):
        horizon_ways(GRAPH, COSTS, horizons=(1, 2), shares=((1.0,),), trips=1)
    apart = type(GRAPH)(GRAPH.tails, GRAPH.heads, num_nodes=10_000)
    with pytest.raises(ValueError, match="no paths between the nodes drawn"):
        horizon_ways(apart, COSTS, horizons=(1,), shares=((1.0,),), trips=1)
