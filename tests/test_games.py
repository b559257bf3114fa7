"""Preference games: the paper's worked examples, closed forms, and each inequality of the theorem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

from jaxpref import environments, games

REFERENCE = (0.7, 0.2, 0.1)
DICE = environments.dice(reference=REFERENCE)
RPS = environments.rock_paper_scissors(reference=REFERENCE)

_gap, _kl = jax.jit(games.duality_gap), jax.jit(games.kl_divergence)


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def _arrays(game):
    """Preferences and log-reference of one prompt."""
    return jnp.asarray(game.preferences[0]), jnp.log(jnp.asarray(game.reference[0]))


def _policies(shape=(4, 5), seed=0):
    logits = 2 * np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))


def _run(update, start, steps):
    """Policies 1 to `steps` of `update(log_policy, step)`."""

    def body(log_policy, step):
        new = update(log_policy, step)
        return new, new

    steps = jnp.arange(steps, dtype=jnp.float64)
    return jax.jit(lambda log_policy: jax.lax.scan(body, log_policy, steps)[1])(start)


def test_one_step_on_the_dice():
    p, _ = _arrays(DICE)
    policy, uniform = jnp.log(jnp.array([0.6, 0.3, 0.1])), jnp.log(jnp.full(3, 1 / 3))
    mixed = games.mixture(policy, uniform, 0.5)  # eta tau
    np.testing.assert_allclose(jnp.exp(mixed), [0.47273, 0.33427, 0.19299], atol=5e-6)
    np.testing.assert_allclose(games.win_rates(p, mixed), [0.50785, 0.48446, 0.50769], atol=5e-6)
    step = games.nash_md_step(p, policy, uniform, 0.1, 5.0)
    np.testing.assert_allclose(jnp.exp(step), [0.49092, 0.30882, 0.20026], atol=5e-6)


NASH = [
    (DICE, 1.0, (0.703643, 0.193466, 0.102891)),
    (DICE, 0.1, (0.713580, 0.147462, 0.138958)),
    (DICE, 0.05, (0.680876, 0.123093, 0.196031)),
    (RPS, 1.0, (0.714498, 0.151406, 0.134097)),
    (RPS, 0.3, (0.622105, 0.121178, 0.256717)),
    (RPS, 0.1, (0.417154, 0.211330, 0.371515)),
]


@pytest.mark.parametrize(("game", "tau", "expected"), NASH)
def test_regularised_equilibria(game, tau, expected):
    (found,) = games.regularised_nash(game.preferences, game.reference, tau)
    np.testing.assert_allclose(np.exp(found), expected, atol=6e-7)
    p, log_ref = _arrays(game)
    assert _gap(p, jnp.asarray(found), log_ref, tau) < 1e-16
    best = games.best_response(p, jnp.asarray(found), log_ref, tau)
    np.testing.assert_allclose(best, found, atol=1e-13)  # the equilibrium condition


@pytest.mark.parametrize("tau", [10.0, 0.1, 0.001])
def test_equilibria_of_many_prompts_to_the_last_digits(tau):
    game = environments.random_game(num_responses=12, num_prompts=6, seed=1)
    found = games.regularised_nash(game.preferences, game.reference, tau)
    log_ref = np.log(game.reference)
    np.testing.assert_allclose(
        games.best_response(game.preferences, found, log_ref, tau), found, atol=1e-12 * max(1, 1 / tau)
    )


def test_an_equilibrium_out_of_reach_says_so():
    with pytest.raises(RuntimeError, match="residual"):
        games.regularised_nash(RPS.preferences, RPS.reference, 0.05, max_steps=1)
    with pytest.raises(ValueError, match="tau"):
        games.regularised_nash(RPS.preferences, RPS.reference, 0.0)
    with pytest.raises(ValueError, match="P \\+ P\\^T"):
        games.regularised_nash(RPS.preferences + 0.1, RPS.reference, 0.1)
    with pytest.raises(ValueError, match="reference"):
        games.regularised_nash(RPS.preferences, [[1.0, 0.0, 0.0]], 0.1)


BETAS = [
    (0.0, (0.417154, 0.211330, 0.371515), 0.0),
    (0.125, (0.387068, 0.188299, 0.424633), 0.0054),
    (0.5, (0.264216, 0.064448, 0.671336), 0.156),
    (1.0, (0.484447, 0.004180, 0.511373), 0.097),
]


@pytest.mark.parametrize(("beta", "expected", "gap"), BETAS)
def test_fixed_points_of_the_beta_family(beta, expected, gap):
    tau = 0.1
    (found,) = games.beta_fixed_point(RPS.preferences, RPS.reference, tau, beta)
    np.testing.assert_allclose(np.exp(found), expected, atol=6e-7)
    p, log_ref = _arrays(RPS)
    assert _gap(p, jnp.asarray(found), log_ref, tau) == pytest.approx(gap, abs=6e-5, rel=3e-3)
    # Stationary by its own definition, and a fixed point of the exact steps whatever their size.
    opponent = games.mixture(found, log_ref, beta)
    np.testing.assert_allclose(games.best_response(p, opponent, log_ref, tau), found, atol=1e-12)
    for eta in (0.1, 2.0):
        step = games.mirror_step(p, jnp.asarray(found), log_ref, tau, eta, beta=beta)
        np.testing.assert_allclose(step, found, atol=1e-12)


@pytest.mark.parametrize("beta", [0.25, 0.7])
def test_the_opponent_at_a_fixed_point_is_an_equilibrium_at_a_higher_temperature(beta):
    game = environments.random_game(num_responses=5, seed=2)
    found = games.beta_fixed_point(game.preferences, game.reference, 0.1, beta)
    opponent = games.mixture(found, np.log(game.reference), beta)
    gap = _gap(game.preferences, opponent, np.log(game.reference), 0.1 / (1 - beta))
    assert gap.max() < 1e-16


def test_the_gap_equals_the_formula_of_the_paper():
    """max over nu of P_tau(nu > pi) - 1/2 = tau log E_ref exp(P(y > pi) / tau) + tau KL(pi || ref) - 1/2."""
    game = environments.random_game(num_responses=5, num_prompts=4)
    policies, log_ref = np.asarray(_policies()), np.log(game.reference)
    for tau in (0.05, 1.0):
        rates = np.einsum("xij,xj->xi", game.preferences, np.exp(policies))
        kl = (np.exp(policies) * (policies - log_ref)).sum(-1)
        formula = tau * np.log(np.exp(log_ref + rates / tau).sum(-1)) + tau * kl - 0.5
        np.testing.assert_allclose(_gap(game.preferences, policies, log_ref, tau), formula, atol=1e-14)
        best = games.best_response(game.preferences, policies, log_ref, tau)
        payoff = games.win_rate(game.preferences, best, policies) + tau * (kl - _kl(best, log_ref))
        np.testing.assert_allclose(payoff - 0.5, formula, atol=1e-14)


def test_divergence_keeps_relative_precision():
    log_q = _policies((1, 6))
    direction = jnp.array([1.0, -2.0, 0.5, 0.0, 3.0, -1.0])
    for size in (1e-3, 1e-5, 1.0):
        log_p = jax.nn.log_softmax(log_q + size * direction[None], -1)
        d = np.asarray(log_p - log_q, np.longdouble)
        exact = (np.exp(np.asarray(log_p, np.longdouble)) * (d + np.expm1(-d))).sum()
        assert float(_kl(log_p, log_q)[0]) == pytest.approx(float(exact), rel=1e-15 / size + 1e-12)
        single = _kl(log_p.astype(jnp.float32), log_q.astype(jnp.float32))
        assert single.dtype == jnp.float32
        # Log-probs of float32 are off by 1e-7 each, so the divergence is good to that over `size`.
        assert float(single[0]) == pytest.approx(float(exact), rel=1e-6 / size + 1e-5)
    p, q = jnp.log(jnp.array([[0.5, 0.5, 0.0]])), jnp.log(jnp.array([[0.25, 0.25, 0.5]]))
    assert _kl(p, q)[0] == pytest.approx(np.log(2))


def test_the_gradient_of_the_divergence():
    log_q = _policies((1, 6))[0]
    logits = log_q + jnp.array([0.02, -0.05, 0.5, 0.0, 2.0, -1.0])

    def plain(x):
        p = jax.nn.softmax(x)
        return (p * (jax.nn.log_softmax(x) - log_q)).sum()

    def ours(x):
        return games.kl_divergence(jax.nn.log_softmax(x), log_q)

    found, expected = jax.jit(lambda x: (jax.grad(ours)(x), jax.grad(plain)(x)))(logits)
    np.testing.assert_allclose(found, expected, atol=1e-14)


@pytest.mark.parametrize("tau", [1.0, 0.3, 0.1])
@pytest.mark.parametrize("game", [DICE, RPS], ids=["dice", "rps"])
def test_theorem_1_at_every_step(game, tau):
    """The step inequality, and the bound of the decaying step size."""
    p, log_ref = _arrays(game)
    star = jnp.asarray(games.regularised_nash(game.preferences, game.reference, tau)[0])
    start = jnp.log(jnp.array([0.1, 0.1, 0.8]))
    steps = jnp.arange(300.0)
    found = _run(
        lambda x, t: games.nash_md_step(p, x, log_ref, tau, games.decaying_step_size(t, tau)), start, 300
    )
    kl = _kl(star[None], found)
    before = jnp.concatenate([_kl(star, start)[None], kl[:-1]])
    eta = games.decaying_step_size(steps, tau)
    assert (kl <= games.nash_md_step_bound(before, tau, eta)).all()
    assert (kl <= games.nash_md_bound(steps + 1, tau)).all()
    assert games.nash_md_bound(1000, 0.1) == pytest.approx(0.8, abs=1e-3)


def test_theorem_1_for_prompts_on_average():
    game, tau = environments.random_game(num_prompts=5, num_responses=4, scale=3.0), 0.2
    star = games.regularised_nash(game.preferences, game.reference, tau)
    log_ref, start = jnp.asarray(np.log(game.reference)), _policies((5, 4))

    def update(x, t):
        return games.nash_md_step(game.preferences, x, log_ref, tau, games.decaying_step_size(t, tau))

    found = _run(update, start, 200)
    kl = _kl(star[None], found).mean(-1)
    before = jnp.concatenate([_kl(star, start).mean(keepdims=True), kl[:-1]])
    eta = games.decaying_step_size(jnp.arange(200.0), tau)
    assert (kl <= games.nash_md_step_bound(before, tau, eta)).all()
    assert (kl <= games.nash_md_bound(jnp.arange(1.0, 201), tau)).all()
    # Prompts do not touch one another.
    alone = games.nash_md_step(game.preferences[2], start[2], log_ref[2], tau, 1.0)
    together = games.nash_md_step(game.preferences, start, log_ref, tau, 1.0)
    np.testing.assert_allclose(together[2], alone, rtol=1e-13)


def test_the_decaying_step_converges_and_a_constant_one_is_biased():
    tau = 0.1
    p, log_ref = _arrays(DICE)
    final = _run(
        lambda x, t: games.nash_md_step(p, x, log_ref, tau, games.decaying_step_size(t, tau)), log_ref, 1000
    )[-1]
    assert _gap(p, final, log_ref, tau) < 1e-8
    star = jnp.asarray(games.regularised_nash(DICE.preferences, DICE.reference, tau)[0])
    assert _kl(star, final) == pytest.approx(8e-9, abs=5e-10), "where the bound is 0.8"
    p, log_ref = _arrays(RPS)
    for eta in (0.5, 1.0):
        final = _run(lambda x, t, eta=eta: games.nash_md_step(p, x, log_ref, tau, eta), log_ref, 2000)[-1]
        (limit,) = games.constant_step_limit(RPS.preferences, RPS.reference, tau, eta)
        np.testing.assert_allclose(final, limit, atol=1e-12)
        assert _gap(p, final, log_ref, tau) > 1e-4


def test_large_steps_against_oneself_cycle_and_against_the_mixture_settle():
    """Rock, paper, scissors, tau 0.1, eta 5: KL to the equilibrium over the last 100 of 400 steps."""
    tau, eta = 0.1, 5.0
    p, log_ref = _arrays(RPS)
    star = jnp.asarray(games.regularised_nash(RPS.preferences, RPS.reference, tau))
    own = _kl(star, _run(lambda x, t: games.omd_step(p, x, log_ref, tau, eta), log_ref, 400)[-100:])
    mixed = _kl(star, _run(lambda x, t: games.nash_md_step(p, x, log_ref, tau, eta), log_ref, 400)[-100:])
    assert own.max() > 0.5
    assert own.max() - own.min() > 0.3
    np.testing.assert_allclose(mixed, 0.22, atol=0.005)


@pytest.mark.parametrize("update", [games.omd_step, games.extragradient_step])
def test_steps_that_settle_at_the_equilibrium(update):
    p, log_ref = _arrays(RPS)
    final = _run(lambda x, t: update(p, x, log_ref, 0.1, 1.0), log_ref, 400)[-1]
    assert _gap(p, final, log_ref, 0.1) < 1e-16


def test_looking_ahead_is_faster():
    p, log_ref = _arrays(RPS)
    gaps = [
        _gap(p, _run(lambda x, t, u=u: u(p, x, log_ref, 0.1, 1.0), log_ref, 100)[-1], log_ref, 0.1)
        for u in (games.omd_step, games.extragradient_step)
    ]
    assert gaps[1] < 1e-6 * gaps[0]


def test_multiplicative_weights_cycle_and_their_average_converges():
    p, log_ref = _arrays(RPS)
    found = _run(lambda x, t: games.mwu_step(p, x, 0.1), log_ref, 20000)
    total = jnp.cumsum(jnp.exp(found), 0)
    for t, last, average in (
        (10, 0.287, 0.272),
        (100, 0.293, 0.198),
        (1000, 0.180, 0.015),
        (20000, 0.495, 0.0025),
    ):
        assert games.exploitability(p, found[t - 1]) == pytest.approx(last, abs=6e-4)
        digits = 6e-5 if t == 20000 else 6e-4
        assert games.exploitability(p, jnp.log(total[t - 1] / t)) == pytest.approx(average, abs=digits)


def test_fictitious_play_converges_where_best_responses_go_round():
    tau = 0.1
    p, log_ref = _arrays(RPS)

    def body(average, t):
        new = games.fictitious_play_step(p, jnp.log(average), log_ref, tau)
        return (average * t + jnp.exp(new)) / (t + 1), new

    found = jax.jit(lambda: jax.lax.scan(body, jnp.exp(log_ref), jnp.arange(2000.0)))()[1]
    assert _gap(p, found[-1], log_ref, tau) < 1e-4
    round_ = _run(lambda x, t: games.best_response_step(p, x, log_ref, tau), log_ref, 500)
    assert jax.vmap(lambda x: _gap(p, x, log_ref, tau))(round_[-20:]).min() > 0.1


def test_steps_in_single_precision_show_small_gaps():
    with enable_x64(False):
        p, log_ref = (jnp.asarray(a, jnp.float32) for a in _arrays(DICE))
        x = log_ref
        step = jax.jit(lambda x: games.omd_step(p, x, log_ref, 0.1, 2.0))
        for _ in range(100):
            x = step(x)
        assert 0 <= _gap(p, x, log_ref, 0.1) < 1e-14


def test_step_size_and_mixture_ends():
    assert games.decaying_step_size(0, 0.1) * 0.1 == pytest.approx(1)
    x, ref = _policies((2, 5)), _policies((2, 5), seed=1)
    np.testing.assert_allclose(games.mixture(x, ref, 0.0), x, atol=1e-15)
    np.testing.assert_allclose(games.mixture(x, ref, 1.0), ref, atol=1e-15)
    with pytest.raises(ValueError, match="beta"):
        games.beta_fixed_point(RPS.preferences, RPS.reference, 0.1, 1.5)


def test_a_policy_ties_with_itself():
    game = environments.random_game(num_responses=5, num_prompts=4)
    policies = _policies()
    np.testing.assert_allclose(games.win_rate(game.preferences, policies, policies), 0.5, atol=1e-15)
    other = _policies(seed=3)
    both = games.win_rate(game.preferences, policies, other) + games.win_rate(
        game.preferences, other, policies
    )
    np.testing.assert_allclose(both, 1, atol=1e-15)
    assert (games.exploitability(game.preferences, policies) >= 0).all()
