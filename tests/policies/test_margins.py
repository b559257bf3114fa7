"""Loss-augmented plans against all plans there are, and soft values that learn an expert."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from x64 import enable_x64

from jaxpref import losses
from jaxpref.algorithms import offline
from jaxpref.planning import TabularMDP, deterministic_mdp, occupancy
from jaxpref.policies.margins import margin_returns, soft_q_values
from jaxpref.policies.planned import planned
from jaxpref.policies.reward_functions import linear_reward
from jaxpref.policies.states import state_table
from jaxpref.types import Segments

S, A, F, H = 4, 2, 3, 4
SUCCESSORS = np.random.default_rng(0).integers(0, S, (S, A))


def world():
    return deterministic_mdp(SUCCESSORS, np.zeros((S, A)), np.zeros(S, bool))


def features():
    return np.random.default_rng(1).normal(size=(S, A, F))


def walked(plan, start=0):
    states, s = [], start
    for a in plan:
        states.append(s)
        s = SUCCESSORS[s, a]
    return states


def demonstration(plan):
    states = jnp.asarray(walked(plan))[None, None]
    return Segments(states, jnp.asarray(plan)[None, None], jnp.ones((1, 1, H), bool))


rewards = partial(linear_reward, features=features, param_dtype="float64")


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_best_returns_and_subgradients_are_those_of_the_best_plan(margin):
    """Over all plans; the slope of the loss is the best plan's features less the demonstration's."""
    with enable_x64(True):
        shown, weights, phi = (0, 1, 1, 0), jnp.asarray([1.0, -0.5, 0.3]), features()
        taken = set(zip(walked(shown), shown, strict=True))
        returns = partial(margin_returns, world=world, rewards=rewards, margin=margin, horizon=H)

        def counted(plan):
            return sum(phi[s, a] for s, a in zip(walked(plan), plan, strict=True))

        def augmented(plan):
            extra = sum((s, a) not in taken for s, a in zip(walked(plan), plan, strict=True))
            return counted(plan) @ weights + margin * extra

        best = max(itertools.product(range(A), repeat=H), key=augmented)
        batch = demonstration(shown)

        @jax.jit
        def loss(w):
            found = returns({"weights": w}, batch)
            return losses.max_margin_planning(**found).sum(), found

        (value, found), slope = jax.value_and_grad(loss, has_aux=True)(weights)
        assert float(found["returns"][0, 0]) == pytest.approx(float(counted(shown) @ weights))
        assert float(value) == pytest.approx(float(augmented(best) - counted(shown) @ weights))
        np.testing.assert_allclose(slope, counted(best) - counted(shown), atol=1e-10)


def test_padding_visits_nothing():
    """A demonstration that never does action 0 in state 0, followed by padding that looks like it."""
    plans = itertools.product(range(A), repeat=H)
    shown = next(p for p in plans if (0, 0) not in set(zip(walked(p), p, strict=True)))
    whole, wide = demonstration(shown), ((0, 0), (0, 0), (0, 2))
    padded = Segments(*(jnp.pad(x, wide) for x in (whole.observations, whole.actions, whole.step_mask)))
    first = np.zeros((S, A, 1))
    first[:, 0] = 1.0  # it pays to do action 0, everywhere
    settings = {"world": world, "rewards": partial(linear_reward, features=lambda: first), "horizon": H}
    found = [margin_returns({"weights": jnp.ones(1)}, batch, **settings) for batch in (whole, padded)]
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_max_margin_planning_trains_in_the_common_step():
    """The best plan of hidden rewards becomes the best plan of the learnt ones."""
    hidden = np.array([1.0, -0.5, 0.3])
    plans = list(itertools.product(range(A), repeat=H))
    phi = features()
    totals = [sum(phi[s, a] for s, a in zip(walked(p), p, strict=True)) for p in plans]
    shown = plans[int(np.argmax([t @ hidden for t in totals]))]
    flat = partial(linear_reward, features=features)
    algorithm = offline(
        planned(world=world, rewards=flat, horizon=H),
        loss=losses.max_margin_planning,
        optimizer=partial(optax.sgd, 0.1),
        reference=None,
        features=partial(margin_returns, world=world, rewards=flat, horizon=H),
    )
    state, step = algorithm.init({"weights": jnp.zeros(F)}), jax.jit(algorithm.step)
    first = None
    for i in range(60):
        state, metrics = step(state, demonstration(shown), jax.random.key(i))
        first = first or float(metrics["loss"].total)
    learnt = np.asarray(state.params["weights"])
    assert first > 1
    assert float(metrics["loss"].total) < 0.1 * first
    assert plans[int(np.argmax([t @ learnt for t in totals]))] == shown


def test_iq_learn_trains_in_the_common_step():
    """All of an expert's occupancy as rows with weights: the table ends at the expert."""
    transitions = np.random.default_rng(3).dirichlet(np.ones(S), (S, A))
    terminal = jnp.arange(S) == S - 1
    mdp = TabularMDP(jnp.asarray(transitions, jnp.float32), jnp.zeros((S, A)), terminal, 0.8)
    expert = jax.nn.softmax(jnp.asarray(np.random.default_rng(4).normal(size=(S, A)), jnp.float32), -1)
    often = occupancy(mdp, expert, jnp.eye(S)[0])[:-1].reshape(-1)
    states, actions = (x.reshape(-1, 1, 1) for x in np.indices((S - 1, A)))
    batch = Segments(
        jnp.asarray(states), jnp.asarray(actions), jnp.ones(states.shape, bool), columns={"weights": often}
    )
    algorithm = offline(
        state_table(states=S, actions=A),
        loss=partial(losses.iq_learn, discount=0.8, alpha=math.inf),
        optimizer=partial(optax.adam, 0.1),
        reference=None,
        features=partial(soft_q_values, world=lambda: mdp),
    )
    state, step = algorithm.init({"logits": jnp.zeros((S, A))}), jax.jit(algorithm.step)
    for i in range(300):
        state, _ = step(state, batch, jax.random.key(i))
    np.testing.assert_allclose(jax.nn.softmax(state.params["logits"], -1)[:-1], expert[:-1], atol=1e-3)


def test_a_negative_margin_is_an_error():
    with pytest.raises(ValueError, match="margin: expected 0 or more"):
        margin_returns({}, demonstration((0,) * H), world=world, rewards=rewards, margin=-1.0)
