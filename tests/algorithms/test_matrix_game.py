"""Exact dynamics in the one loop's terms: what a step does, what it reports, and what is refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

from jaxpref import environments, games
from jaxpref.algorithms import matrix_game
from jaxpref.data.text.actions import action_pairs, actions_tokenizer
from jaxpref.metrics import to_floats
from jaxpref.policies.tabular import tabular

KEY = jax.random.key(0)
REFERENCE = (0.7, 0.2, 0.1)
BATCH = action_pairs(num_actions=3).rows(range(6))
RPS = partial(environments.rock_paper_scissors, reference=REFERENCE)


def _start(reference=REFERENCE, **arguments):
    return tabular(prompts=1, vocab=3, initial=[np.log(reference)], **arguments)


def _run(algorithm, policy, steps, batch=BATCH):
    """The state after `steps`, and the metrics of each step."""

    def body(state, _):
        return algorithm.step(state, batch, KEY)

    state = algorithm.init(policy.init(KEY))
    state, metrics = jax.jit(lambda s: jax.lax.scan(body, s, length=steps))(state)
    return state, {name: np.asarray(jax.vmap(lambda m: m.value)(m)) for name, m in metrics.items()}


def test_the_decaying_step_reaches_the_equilibrium_of_the_dice():
    policy = _start()
    game = partial(environments.dice, reference=REFERENCE)
    algorithm = matrix_game(
        policy, game=game, update=games.nash_md_step, tau=0.1, bound=games.nash_md_step_bound
    )
    state, metrics = _run(algorithm, policy, 1000)
    assert int(state.step) == 1000
    final = to_floats(algorithm.evaluate(state, BATCH, KEY))
    assert final["duality_gap"] < 1e-8
    np.testing.assert_allclose(
        jax.nn.softmax(state.params["logits"])[0], [0.713580, 0.147462, 0.138958], atol=1e-4
    )
    assert (metrics["kl/equilibrium"] <= metrics["kl/bound"]).all()
    assert metrics["kl/bound"][0] == metrics["kl/equilibrium"][0], "before the first step"
    allowed = metrics["kl/bound"][0]
    for t in range(3):
        allowed = games.nash_md_step_bound(allowed, 0.1, games.decaying_step_size(t, 0.1))
        assert metrics["kl/bound"][t + 1] == pytest.approx(allowed, rel=1e-5)
    t = np.arange(1, 1000)
    assert (metrics["kl/bound"][1:] <= games.nash_md_bound(t, 0.1) * (1 + 1e-5)).all()


def test_what_a_step_reports_is_about_the_policy_before_it():
    policy = _start()
    algorithm = matrix_game(policy, game=RPS, update=games.omd_step, tau=0.1)
    state = algorithm.init(policy.init(KEY))
    new, metrics = jax.jit(algorithm.step)(state, BATCH, KEY)
    found, game = to_floats(metrics), RPS()
    log_ref = jnp.log(jnp.asarray(REFERENCE))
    p = jnp.asarray(game.preferences[0])
    star = games.regularised_nash(game.preferences, game.reference, 0.1)[0]
    assert found["loss"] == found["duality_gap"]
    assert found["duality_gap"] == pytest.approx(float(games.duality_gap(p, log_ref, log_ref, 0.1)), rel=1e-6)
    assert found["kl/equilibrium"] == pytest.approx(float(np.exp(star) @ (star - log_ref)), rel=1e-6)
    assert found["kl/reference"] < 1e-12
    assert found["exploitability"] == pytest.approx(float((p @ jnp.exp(log_ref)).max()) - 0.5, rel=1e-6)
    assert found["average/exploitability"] == pytest.approx(found["exploitability"], rel=1e-6)
    assert found["num_tokens"] == 18
    assert "kl/bound" not in found
    assert to_floats(algorithm.evaluate(state, BATCH, KEY)) == pytest.approx(found)
    expected = games.omd_step(p, log_ref, log_ref, 0.1, 10.0)  # eta = 2 / (0.1 * 2)
    np.testing.assert_allclose(new.params["logits"][0], expected, atol=1e-5)


def test_a_constant_step_is_biased_to_the_mixture_game():
    policy, tau, eta = _start(), 0.1, 1.0
    algorithm = matrix_game(
        policy,
        game=RPS,
        update=games.nash_md_step,
        tau=tau,
        step_size=partial(games.constant_step_size, eta=eta),
    )
    state, metrics = _run(algorithm, policy, 300)
    limit = games.constant_step_limit(RPS().preferences, RPS().reference, tau, eta)
    np.testing.assert_allclose(jax.nn.log_softmax(state.params["logits"]), limit, atol=2e-5)
    assert metrics["duality_gap"][-1] > 1e-3


def test_multiplicative_weights_and_their_average():
    policy = _start()
    step_size = partial(games.constant_step_size, eta=0.1)
    algorithm = matrix_game(policy, game=RPS, update=games.mwu_step, tau=0.1, step_size=step_size)
    _, metrics = _run(algorithm, policy, 1001)
    for t, last, average in ((10, 0.287, 0.272), (100, 0.293, 0.198), (1000, 0.180, 0.015)):
        assert metrics["exploitability"][t] == pytest.approx(last, abs=6e-4)
        assert metrics["average/exploitability"][t] == pytest.approx(average, abs=6e-4)


def test_fictitious_play_answers_the_average():
    policy = _start()
    algorithm = matrix_game(policy, game=RPS, update=games.fictitious_play_step, tau=0.1)
    state, metrics = _run(algorithm, policy, 500)
    assert metrics["duality_gap"][-1] < 1e-3
    assert state.average.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "update",
    [games.extragradient_step, games.best_response_step, partial(games.mirror_step, beta=0.3)],
    ids=["extragradient", "best_response", "mirror"],
)
def test_other_dynamics_equal_their_own_steps(update):
    game = environments.random_game(num_prompts=2, num_responses=4)
    with enable_x64():
        start = np.random.default_rng(0).normal(size=(2, 4))
        policy = tabular(prompts=2, vocab=4, param_dtype="float64", initial=start)
        params = policy.init(KEY)
        step_size = partial(games.constant_step_size, eta=2.0)
        algorithm = matrix_game(policy, game=lambda: game, update=update, tau=0.2, step_size=step_size)
        batch = action_pairs(num_prompts=2, num_actions=4).rows(range(2))
        state, _ = jax.jit(algorithm.step)(algorithm.init(params), batch, KEY)
        x, log_ref = jax.nn.log_softmax(params["logits"]), jnp.log(game.reference)
        if update is games.best_response_step:
            expected = update(game.preferences, x, log_ref, 0.2)
        else:
            expected = update(game.preferences, x, log_ref, 0.2, 2.0)
        np.testing.assert_allclose(state.params["logits"], expected, rtol=1e-12)


def test_metrics_of_several_prompts_are_means():
    game = environments.random_game(num_prompts=3, num_responses=4, scale=2.0)
    start = np.random.default_rng(0).normal(size=(3, 4))
    policy = tabular(prompts=3, vocab=4, initial=start)
    algorithm = matrix_game(
        policy, game=lambda: game, update=games.nash_md_step, tau=0.2, bound=games.nash_md_step_bound
    )
    batch = action_pairs(num_prompts=3, num_actions=4).rows(range(3))
    state, metrics = _run(algorithm, policy, 200, batch)
    log_pi = start - np.log(np.exp(start).sum(-1, keepdims=True))
    gaps = jax.jit(games.duality_gap)(game.preferences, log_pi, np.log(game.reference), 0.2)
    assert metrics["duality_gap"][0] == pytest.approx(float(gaps.mean()), rel=1e-5)
    assert (metrics["kl/equilibrium"] <= metrics["kl/bound"]).all()
    assert metrics["duality_gap"][-1] < 1e-4
    # tau log(pi / ref) is P(y beats pi) up to a constant at equilibrium.
    rewards = jax.jit(algorithm.rewards)(state, batch)
    star = games.regularised_nash(game.preferences, game.reference, 0.2)
    rates = np.einsum("xij,xj->xi", game.preferences, np.exp(star))
    x, y = batch.prompt_tokens[:, 0], batch.response_tokens[:, :, 0]
    expected = rates[x[:, None], y]
    np.testing.assert_allclose(np.diff(rewards), np.diff(expected), atol=5e-3)


def test_refusals():
    policy = _start()
    build = partial(matrix_game, policy, game=RPS, update=games.nash_md_step, tau=0.1)
    with pytest.raises(ValueError, match=r"tabular\(prompts=1, vocab=3"):
        matrix_game(tabular(prompts=2, vocab=3), game=RPS, update=games.nash_md_step, tau=0.1)
    with pytest.raises(ValueError, match="asks for 'beta'"):
        build(update=games.mirror_step)
    with pytest.raises(ValueError, match="eta \\* tau"):
        build(step_size=partial(games.constant_step_size, eta=11.0))
    build(update=games.mwu_step, step_size=partial(games.constant_step_size, eta=11.0))
    for update in (games.nash_md_step, games.mwu_step):
        with pytest.raises(ValueError, match="tau"):
            build(update=update, tau=0.0)


def test_records_of_actions():
    records = action_pairs(num_prompts=2, num_actions=3, pairs=((0, 1), (2, 1)))
    batch = records.rows(range(4))
    np.testing.assert_array_equal(batch.prompt_tokens[:, 0], [0, 0, 1, 1])
    np.testing.assert_array_equal(batch.response_tokens[..., 0], [[0, 1], [2, 1]] * 2)
    tokenizer = actions_tokenizer(num_actions=3)
    assert tokenizer.decode(tokenizer.encode("2 0 1")) == "2 0 1"
    with pytest.raises(ValueError, match="pairs"):
        action_pairs(num_actions=3, pairs=((0, 3),))
