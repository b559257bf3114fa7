"""Environments: the closed forms they promise, against their definitions and the papers' worked examples."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from jaxpref import environments, games
from jaxpref.environments.fitted import fitted_preferences, fitted_rewards


@pytest.mark.parametrize("epsilon", [0.1, 0.01, -0.05, 0.0])
def test_population_game(epsilon):
    """The equilibrium moves smoothly; the highest Bradley-Terry reward jumps from response 2 to 1 at 0."""
    (p,) = environments.population_game(epsilon=epsilon).preferences
    nash = environments.population_nash(epsilon)
    np.testing.assert_allclose(p @ nash, 0.5, atol=1e-15)
    assert nash.sum() == pytest.approx(1)
    wins = p.mean(1)  # the order of Bradley-Terry rewards when all pairs are compared equally often
    rewards = fitted_rewards(1000 * p, prior=1e6)
    if epsilon:
        assert wins.argmax() == rewards.argmax() == (0 if epsilon > 0 else 1)
    else:
        np.testing.assert_allclose(rewards, 0, atol=1e-9)


def test_elo_game():
    (p,) = environments.elo_game().preferences
    best = environments.elo_policy(1 / 3)
    np.testing.assert_allclose(best, [2 / 3, 1 / 3, 0])
    third = np.array([0, 0, 1])
    assert third @ p @ best == pytest.approx(50 / 99, abs=1e-15)
    scores = np.array([0, math.log(9), math.log(2)])
    weights = np.linspace(0, 1 / 3, 11)
    values = [environments.elo_policy(w) @ scores for w in weights]
    assert np.argmax(values) == 10
    assert all(third @ p @ environments.elo_policy(w) >= 0.5 for w in weights)


def test_bandit_and_its_rlhf_optimum():
    bandit = environments.bt_bandit()
    for phases, policy, value, kl in (
        (1, (0.3534, 0.3215, 0.3250), 0.514, 0.084),
        (2, (0.5291, 0.2919, 0.1790), 0.675, 0.323),
        (3, None, 0.800, 0.632),
        (5, (0.8772, 0.1080, 0.0148), 0.931, 1.135),
    ):
        found = environments.rlhf_optimum(bandit.rewards, bandit.reference, 1.0 / phases)
        if policy is not None:
            np.testing.assert_allclose(np.exp(found)[0], policy, atol=6e-5)
        assert bandit.value(np.exp(found))[0] == pytest.approx(value, abs=6e-4)
        assert (np.exp(found) * (found - np.log(bandit.reference))).sum() == pytest.approx(kl, abs=6e-4)
    # The law of BPO: each phase starts from where the one before ended.
    first = environments.rlhf_optimum(bandit.rewards, bandit.reference, 1.0)
    second = environments.rlhf_optimum(bandit.rewards, np.exp(first), 1.0)
    np.testing.assert_allclose(
        second, environments.rlhf_optimum(bandit.rewards, bandit.reference, 0.5), atol=1e-14
    )


def test_rlhf_optimum_is_one():
    bandit, rng = environments.bt_bandit(), np.random.default_rng(0)

    def objective(policy):
        kl = (policy * np.log(policy / bandit.reference[0])).sum(-1)
        return (policy * bandit.rewards[0]).sum(-1) - 0.3 * kl

    best = np.exp(environments.rlhf_optimum(bandit.rewards, bandit.reference, 0.3))[0]
    assert (objective(rng.dirichlet(np.ones(3), 500)) < objective(best)).all()


COVERAGE = [
    (0.01, (0.612930, 0.154865, 0.232206), 1.375698, 0.149306),
    (0.1, (0.604112, 0.167248, 0.228641), 1.284282, 0.133834),
    (1.0, (0.532378, 0.257549, 0.210073), 0.726142, 0.049136),
]


@pytest.mark.parametrize(("weight", "policy", "h", "kl"), COVERAGE)
def test_coverage_gap(weight, policy, h, kl):
    environment = environments.coverage_gap()
    found = environments.hypo_optimum(environment, kl_weight=weight)
    ratios = found - np.log(environment.reference[0])
    np.testing.assert_allclose(np.exp(found), policy, atol=6e-7)
    assert ratios[0] - ratios[1] == pytest.approx(h, abs=6e-7)
    assert ratios[2] == pytest.approx(kl, abs=6e-7)
    assert (np.exp(found) * ratios).sum() == pytest.approx(ratios[2], abs=1e-12)
    # Stationary in the logits: kl_weight pi_k (L_k - KL) + d DPO / d logit_k = 0.
    slope = 1 / (1 + math.exp(-(ratios[0] - ratios[1]))) - 0.8
    gradient = weight * np.exp(found) * (ratios - ratios[2]) + slope * np.array([1, -1, 0])
    np.testing.assert_allclose(gradient, 0, atol=1e-12)


def test_hypo_optimum_with_another_beta_minimises():
    environment, rng = environments.coverage_gap(probability=0.3), np.random.default_rng(0)
    ref = environment.reference[0]

    def objective(log_policy, beta=0.5, weight=0.2):
        ratios = log_policy - np.log(ref)
        h = beta * (ratios[..., 0] - ratios[..., 1])
        dpo = 0.3 * np.logaddexp(0, -h) + 0.7 * np.logaddexp(0, h)
        return dpo + weight * (np.exp(log_policy) * ratios).sum(-1)

    best = environments.hypo_optimum(environment, beta=0.5, kl_weight=0.2)
    near = np.log(rng.dirichlet(50 * np.exp(best), 500))
    assert (objective(near) > objective(best)).all()


def test_dpo_leaves_the_uncovered_response_free():
    """Loss .5004 at h = log 4, whatever mass the third response has."""
    environment = environments.coverage_gap()
    assert environment.preferences[0, 0, 1] == pytest.approx(0.8)
    assert environment.covered.tolist() == [[True, True, False]]
    entropy = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    assert entropy == pytest.approx(0.5004, abs=5e-5)
    for mass in (0.33, 0.999):
        policy = np.array([0.8 * (1 - mass), 0.2 * (1 - mass), mass])
        ratios = np.log(policy / environment.reference[0])
        h = ratios[0] - ratios[1]
        assert h == pytest.approx(1.38629, abs=5e-6)
        assert 0.8 * np.logaddexp(0, -h) + 0.2 * np.logaddexp(0, h) == pytest.approx(entropy)


def test_extrapolation():
    for beta, expected in ((1.0, (0.0476, 0.1905, 0.7619)), (0.5, (0.0037, 0.0586, 0.9377))):
        found = np.exp(environments.log_linear_policy(math.log(4) / beta))
        np.testing.assert_allclose(found, expected, atol=6e-5)
        assert found[1] < 1 / 3, "the chosen response loses too"


def test_uncovered_bandit():
    bandit = environments.uncovered_bandit()
    assert bandit.rewards[bandit.covered].max() == 0.9
    assert bandit.covered.tolist() == [[True, True, True, False]]
    assert bandit.preferences[0, 1, 0] == pytest.approx(1 / (1 + math.exp(-3 * 0.7)))


@pytest.mark.parametrize(
    ("weight", "anchored", "value", "uncovered"),
    [(1.0, True, 0.8355, 0.0021), (1.0, False, 0.7115, 0.1178), (10.0, True, 0.8931, 0.0034)],
)
def test_a_cautious_critic_finds_the_best_covered_response(weight, anchored, value, uncovered):
    """400 steps of SPAC with an exact critic f in [0, 1]: the value and the mass of the uncovered response.

    f minimises E_pi f - E_mu f + weight * mean loss of the three pairs; mu is uniform on covered responses.
    """
    bandit = environments.uncovered_bandit()
    (p,), (covered,) = bandit.preferences, bandit.covered
    mu = covered / covered.sum() if anchored else np.zeros(4)
    i, j = np.array([[0, 0, 1], [1, 2, 2]])

    def objective(f, policy):
        h = bandit.scale * (f[i] - f[j])
        slopes = weight * bandit.scale / 3 * (1 / (1 + np.exp(-h)) - p[i, j])
        gradient = policy - mu
        np.add.at(gradient, i, slopes)
        np.add.at(gradient, j, -slopes)
        loss = p[i, j] * np.logaddexp(0, -h) + p[j, i] * np.logaddexp(0, h)
        return f @ (policy - mu) + weight * loss.mean(), gradient

    logits, critic, average = np.zeros(4), np.full(4, 0.5), np.zeros(4)
    for _ in range(400):
        policy = np.exp(logits - np.logaddexp.reduce(logits))
        average += policy / 400
        critic = minimize(objective, critic, (policy,), jac=True, bounds=[(0, 1)] * 4, method="L-BFGS-B").x
        logits = logits + 0.5 * critic
    assert bandit.value(average)[0] == pytest.approx(value, abs=2e-4)
    assert average[3] <= uncovered + 1e-4


@pytest.mark.parametrize("beta", [0.25, 0.5])
def test_tree_mixtures_of_tokens_and_of_sequences_differ(beta):
    tree = environments.two_token_tree()
    np.testing.assert_array_equal(tree.tokens[:4], [[0, 0], [0, 1], [0, 2], [1, 0]])
    reference = environments.sequence_logps(tree.reference_logits[0])
    assert np.exp(reference).sum() == pytest.approx(1)
    np.testing.assert_allclose(np.log(tree.game.reference[0]), reference)
    logits = np.random.default_rng(5).normal(size=(4, 3))
    mixed = environments.token_mixture(logits, tree.reference_logits[0], beta)
    assert np.exp(mixed).sum() == pytest.approx(1)
    together = np.asarray(games.mixture(environments.sequence_logps(logits), reference, beta))
    assert np.abs(mixed - together).max() > 0.01
    # Given the first token, the second has the same law: only the first one's differs.
    np.testing.assert_allclose(
        np.diff(mixed.reshape(3, 3), axis=1), np.diff(together.reshape(3, 3), axis=1), atol=1e-5
    )
    np.testing.assert_allclose(
        environments.token_mixture(logits, tree.reference_logits[0], 1.0), reference, atol=1e-14
    )


def test_didactic_bandit():
    far, near = environments.didactic_bandit(), environments.didactic_bandit(peak=20.0)
    assert far.rewards[0].argmax() == 70
    assert far.rewards[0, 60] == pytest.approx(math.exp(-1))
    mode = far.reference[0].argmax()
    assert abs(mode - 20) <= 1
    assert near.value(near.reference) > 3 * far.value(far.reference)


def test_policies_of_a_fitted_game():
    """Mean of 8 games: the best response to the reference is clearly worst, and the best weight is not 1."""
    betas, rates = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0), []
    for seed in range(8):
        found = environments.fitted_game(seed=seed)
        (p,), (reference,) = found.true.preferences, found.true.reference
        rival = np.exp(environments.rlhf_optimum(found.rewards[0], reference, 0.25))
        policies = [games.beta_fixed_point(found.fitted.preferences[0], reference, 0.05, b) for b in betas]
        rates.append([np.exp(policy) @ p @ rival for policy in policies])
    mean = np.mean(rates, 0)
    assert mean[-1] < mean[:-1].min() - 0.02
    assert mean.argmax() < len(betas) - 1


def test_fits_are_stationary():
    rng = np.random.default_rng(0)
    wins = np.triu(rng.integers(0, 9, (6, 6)), 1).astype(float)
    wins = wins + np.triu(rng.integers(0, 9, (6, 6)), 1).T
    p = fitted_preferences(wins, prior=0.7)
    slope = wins - (wins + wins.T) * p - np.log(p / (1 - p)) / 0.7**2
    np.testing.assert_allclose(slope, 0, atol=1e-10)
    rewards = fitted_rewards(wins, prior=0.7)
    p = 1 / (1 + np.exp(-(rewards[:, None] - rewards)))
    np.testing.assert_allclose((wins - (wins + wins.T) * p).sum(1) - rewards / 0.7**2, 0, atol=1e-10)


def test_fits_recover_what_was_sampled():
    p = environments.random_game(num_responses=4).preferences[0]
    np.testing.assert_allclose(fitted_preferences(1e8 * p, prior=1.0), p, atol=1e-6)


def test_duels():
    duels = environments.linear_duels(num_rounds=50, num_arms=4)
    best = duels.utilities.argmax(1)
    np.testing.assert_array_equal(duels.weak_regret(best, 0 * best), 0)
    assert (duels.strong_regret(best, 0 * best) >= 0).all()
    assert duels.strong_regret(best, 0 * best).mean() > 0.5
    u = duels.features[7] @ np.array([1, 0.5, 0.2])
    assert duels.preferences[7, 1, 2] == pytest.approx(1 / (1 + math.exp(u[2] - u[1])))


def test_games_are_checked():
    with pytest.raises(ValueError, match="P \\+ P\\^T"):
        environments.game([[0.5, 0.9], [0.9, 0.5]])
    with pytest.raises(ValueError, match="reference"):
        environments.dice(reference=(0.5, 0.5, 0.1))
    with pytest.raises(ValueError, match="reference"):
        environments.dice(reference=(0.5, 0.5))
    with pytest.raises(ValueError, match="covered"):
        environments.hypo_optimum(environments.bt_bandit(), kl_weight=1.0)
    for wrong in (
        lambda: environments.population_game(epsilon=0.6),
        lambda: environments.elo_policy(0.5),
        lambda: environments.rlhf_optimum([1.0], [1.0], 0.0),
        lambda: environments.coverage_gap(probability=1.0),
        lambda: environments.didactic_bandit(width=0.0),
    ):
        with pytest.raises(ValueError, match="expected"):
            wrong()


def test_a_random_game_is_one_for_each_prompt():
    game = environments.random_game(num_prompts=3, num_responses=4, uniform=True)
    assert game.preferences.shape == (3, 4, 4)
    assert game.reference.tolist() == [[0.25] * 4] * 3
    assert np.abs(game.preferences[0] - game.preferences[1]).max() > 0.1
