"""Rewards learned from comparisons, in the common loop, and what is made of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref import losses
from jaxpref.algorithms import offline
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data.behaviour.simulated import simulated_comparisons
from jaxpref.environments import gridworld, random_delivery
from jaxpref.environments.delivery import FEATURES
from jaxpref.evals import learned_weights, planned_return
from jaxpref.evals.base import Context
from jaxpref.experiment import Experiment, Stage
from jaxpref.planning import greedy_policy, score_by_regret, state_action_features
from jaxpref.policies.reward_functions import tabular_reward
from jaxpref.policies.rewarded import linear_scores, return_scores
from jaxpref.training.run import train
from jaxpref.types import Segments

world = partial(random_delivery, seed=4, rows=5, columns=5, weights=(-1, 5, -5, 1, -1, -2), discount=0.95)
people = partial(simulated_comparisons, world=world, num_pairs=4000, hard=False)
regret = partial(score_by_regret, temperature=0.05, max_sweeps=60)


def table():
    return state_action_features(world())


def fitted(policy, records, steps=200, rate=0.1):
    """Full batches, in one compiled loop."""
    algorithm = offline(
        policy,
        loss=losses.bradley_terry_soft,
        optimizer=partial(adamw, schedule=partial(constant, value=rate), clip_norm=None),
        reference=None,
    )

    @jax.jit
    def fit(batch):
        def step(state, _):
            return algorithm.step(state, batch, jax.random.key(0))[0], None

        return jax.lax.scan(step, algorithm.init(policy.init(jax.random.key(0))), None, steps)[0]

    batch = records.rows(np.arange(len(records)))
    state = fit(batch)
    context = Context(
        policy, state.params, None, 0, partial(algorithm.rewards, state), put=lambda x: x, fetch=np.asarray
    )
    return state.params["weights"], context


@pytest.fixture(scope="module")
def by_regret():
    return fitted(linear_scores(world=world, score=regret, initial=(-0.1, 0, 0, 0, 0, 0)), people())


def test_the_regret_model_finds_the_weights_of_people_who_regret(by_regret):
    weights, context = by_regret
    truth = np.asarray(world().weights)
    seen = np.asarray(world().features).any((0, 1))
    np.testing.assert_allclose(np.asarray(weights)[seen], truth[seen], rtol=0.15, atol=0.1)
    found = planned_return(context, world=world, read=greedy_policy).metrics
    assert found["scaled return"].mean == pytest.approx(1, abs=0.02)
    ratios = learned_weights(context, features=FEATURES).metrics
    assert ratios["gas"].mean == -1
    assert ratios["goal"].mean == pytest.approx(5, rel=0.15)
    with pytest.raises(ValueError, match="2 features and weights of shape"):
        learned_weights(context, features=("gas", "goal"))


def test_a_table_fitted_by_partial_return_to_regret_is_the_advantage():
    """Read greedily it is optimal; its level is found only if some segments end early (arXiv:2310.02456)."""
    policy, levels = linear_scores(world=table), []
    for absorbing in (True, False):
        _, context = fitted(policy, people(absorbing=absorbing, num_pairs=8000), steps=300, rate=0.2)
        found = planned_return(context, world=world, read=greedy_policy).metrics
        assert found["scaled return"].mean > 0.95
        levels.append(abs(found["largest entry"].mean))
    assert levels[0] < 0.1 < levels[1]


def test_scores_of_steps_are_what_the_policy_says(by_regret):
    weights, context = by_regret
    batch = people(num_pairs=5).rows(np.arange(5))
    policy = linear_scores(world=world, score=regret)
    direct = regret(world(), weights, batch.observations, batch.actions, batch.step_mask)
    np.testing.assert_allclose(context.rewards(batch), direct, rtol=1e-5)
    with pytest.raises(ValueError, match="no entropy"):
        policy.quantities({"weights": weights}, batch, ("entropy",), None)
    with pytest.raises(ValueError, match="no distribution"):
        policy.token_logps({"weights": weights}, batch)
    with pytest.raises(ValueError, match="expected 6 weights"):
        linear_scores(world=world, initial=(1.0,))


def test_rewards_train_in_the_common_loop(tmp_path):
    pairs = partial(people, num_pairs=200)
    experiment = Experiment(
        name="rewards",
        policy=partial(linear_scores, world=world, score=regret),
        tokenizer=None,
        stages=(
            Stage(
                name="preferences",
                algorithm=partial(
                    offline,
                    loss=losses.bradley_terry_soft,
                    optimizer=partial(adamw, schedule=partial(constant, value=0.1), clip_norm=None),
                    reference=None,
                ),
                train=pairs,
                evaluation=pairs,
                evaluators=(partial(planned_return, world=world, read=greedy_policy),),
                num_steps=20,
                batch_size=64,
                evaluate_every=20,
                checkpoint_every=20,
            ),
        ),
    )
    lines = []
    params = train(experiment, tmp_path, log=lines.append).params
    assert params["weights"].shape == (6,)
    assert jnp.isfinite(params["weights"]).all()
    said = "\n".join(lines)
    assert "planned: scaled return" in said
    assert "preferences  20/20" in said


def test_returns_are_sums_of_rewards_along_the_way():
    """Discounted, under a table, up to where the segment ends; terminal states pay nothing."""
    ended = partial(gridworld, height=2, width=2, terminal=(3,))
    table = return_scores(world=ended, rewards=partial(tabular_reward, states=4, actions=5), discount=0.5)
    given = np.random.default_rng(2).normal(size=(4, 5)).astype(np.float32)
    batch = Segments(
        jnp.array([[[0, 1, 3], [2, 2, 0]]]),
        jnp.array([[[1, 4, 2], [0, 3, 1]]]),
        jnp.array([[[True, True, True], [True, True, False]]]),
    )
    found = table.quantities({"rewards": jnp.asarray(given)}, batch, ("embeddings",), None)["embeddings"]
    expected = [given[0, 1] + 0.5 * given[1, 4], given[2, 0] + 0.5 * given[2, 3]]
    np.testing.assert_allclose(found[0, :, 0], expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"return_scores\.rewards: expected \[4, 5\] or \[4, 1\]"):
        return_scores(world=ended, rewards=partial(tabular_reward, states=3))
