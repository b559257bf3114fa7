"""Policy gradients: what their mean gradients are, exactly and by Monte Carlo, and what look-alikes give."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import two_token_tree as tree
from two_token_tree import MASK, REFERENCE, SCORES, THETA, Rows
from x64 import enable_x64

from jaxpref import losses
from jaxpref.losses.actor_critic import generalised_advantages, token_rewards, whitened
from jaxpref.losses.kl import k1, k2, k3, kl_to_go
from jaxpref.losses.policy_gradient import leave_one_out


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def _gradient(objective, at=THETA):
    return np.asarray(jax.jit(jax.grad(objective))(at))


def _inputs(theta, index):
    """What the nine responses offer, for tuples [n, k] of them."""
    token_logps, reference = tree.tokens(theta)[index], tree.tokens(jnp.asarray(REFERENCE))[index]
    mask = jnp.broadcast_to(MASK, token_logps.shape)
    return token_logps, reference, mask


def _nash(loss):
    """Of pairs (response, opponent's response): the first is scored against the second."""

    def of_rows(theta, index):
        return loss(*_inputs(theta, index[:, :1]), tree.PREFERENCES[index[:, 0], index[:, 1]][:, None])[:, 0]

    return of_rows


def _scored(loss):
    def of_rows(theta, index):
        return loss(*_inputs(theta, index), jnp.asarray(SCORES)[index]).mean(-1)

    return of_rows


def _own_log_ratio(token_logps, reference, mask, gains, price):
    """The look-alike: each token answers for its own log-ratio only."""
    ratios = jnp.where(mask, jax.lax.stop_gradient(token_logps - reference), 0)
    return -(jnp.where(mask, token_logps, 0) * (gains[..., None] - price * ratios)).sum(-1)


TAU = 0.3
OPPONENT = np.random.default_rng(1).normal(size=12)


def _nash_objective(theta):
    p = tree.probabilities(theta) @ tree.PREFERENCES @ tree.probabilities(jnp.asarray(OPPONENT))
    return -(p - TAU * tree.kl(theta))


def _score_objective(theta, beta=TAU):
    return -(tree.probabilities(theta) @ SCORES - beta * tree.kl(theta))


def _nash_md(logps, reference, mask, p):
    return losses.nash_md(logps, reference, p, mask, tau=TAU)


def _nash_md_own(logps, reference, mask, p):
    return _own_log_ratio(logps, reference, mask, p - 0.5, TAU)


def _reinforce(logps, reference, mask, scores, baseline=0.0):
    return losses.reinforce(logps, reference, scores, mask, beta=TAU, baseline=baseline)


def _reinforce_own(logps, reference, mask, scores):
    return _own_log_ratio(logps, reference, mask, scores, TAU)


def _rloo(logps, reference, mask, scores):
    logps, reference = ((jnp.where(mask, x, 0)).sum(-1) for x in (logps, reference))
    behaviour = jax.lax.stop_gradient(logps)
    return losses.rloo(logps, reference, behaviour, scores, mask.any(-1), beta=TAU)


def _grpo(logps, reference, mask, scores, **arguments):
    behaviour = jax.lax.stop_gradient(logps)
    return losses.grpo(logps, reference, behaviour, scores, mask, **arguments)


def test_nash_md_follows_the_game_and_the_kl_of_responses():
    rows, exact = Rows(THETA, OPPONENT), _gradient(_nash_objective)
    each = rows.gradients(_nash(_nash_md))
    np.testing.assert_allclose(rows.weights @ each, exact, atol=1e-14)
    assert rows.errors(each, exact) < 4
    assert rows.errors(rows.gradients(_nash(_nash_md_own)), exact) > 8


def test_own_log_ratio_only_misses_much_of_the_first_token():
    rows, exact = Rows(THETA), _gradient(tree.kl)

    def term(of):
        return lambda theta, index: -of(*_inputs(theta, index))[:, 0]

    causal = term(lambda p, r, mask: _reinforce(p, r, mask, jnp.zeros(p.shape[:2])) / TAU)
    own = term(lambda p, r, mask: _reinforce_own(p, r, mask, jnp.zeros(p.shape[:2])) / TAU)
    np.testing.assert_allclose(-rows.mean(causal), exact, atol=1e-14)
    missing = np.abs(-rows.mean(own) - exact)
    np.testing.assert_allclose(missing[:3].max() / np.abs(exact[:3]).max(), 0.279, atol=5e-4)
    np.testing.assert_allclose(missing[3:], 0, atol=1e-14)  # the last token has nothing after it


@pytest.mark.parametrize("baseline", [0.0, 1.7])
def test_reinforce_is_unbiased_with_any_baseline(baseline):
    rows, exact = Rows(THETA), _gradient(_score_objective)
    each = rows.gradients(_scored(partial(_reinforce, baseline=baseline)))
    np.testing.assert_allclose(rows.weights @ each, exact, atol=1e-14)
    assert rows.errors(each, exact) < 4
    assert rows.errors(rows.gradients(_scored(_reinforce_own)), exact) > 8


def test_rloo_is_unbiased_and_less_noisy():
    rows, exact = Rows(THETA, THETA), _gradient(_score_objective)
    each = rows.gradients(_scored(_rloo))
    np.testing.assert_allclose(rows.weights @ each, exact, atol=1e-14)
    assert rows.errors(each, exact) < 4
    # Half the difference of the two scores is what the group's own mean would give: half the gradient.
    free = partial(_grpo, beta=0.0, scale=False)
    half = _gradient(partial(_score_objective, beta=0.0)) / 2
    grouped = 2 * rows.gradients(_scored(free))
    np.testing.assert_allclose(rows.weights @ grouped, half, atol=1e-14)
    assert rows.errors(grouped, 2 * half) > 20
    # With scores far from zero, which a constant of 3 stands for here.
    plain = rows.gradients(_scored(partial(_reinforce, baseline=3.0)))
    variances = [(rows.weights @ (g - exact) ** 2).sum() for g in (each, plain)]
    assert variances[0] < variances[1] / 2


def test_grpo_with_standard_deviations_follows_something_else():
    rows, exact = Rows(THETA, THETA), _gradient(partial(_score_objective, beta=0.0))
    each = rows.gradients(_scored(partial(_grpo, beta=0.0)))
    found = rows.weights @ each
    cosine = found @ exact / np.linalg.norm(found) / np.linalg.norm(exact)
    assert 0.5 < cosine < 0.99, "not even its direction"
    assert rows.errors(each, exact * (found @ exact) / (exact @ exact)) > 20


def test_k3_in_the_loss_of_grpo_is_the_forward_kl():
    rows = Rows(THETA, THETA)
    loss = _scored(lambda p, r, mask, _: _grpo(p, r, mask, jnp.zeros(p.shape[:2]), beta=1.0))

    def forward(theta):
        """KL(reference || policy) of each token, at prefixes the policy visits."""
        reference = jnp.asarray(REFERENCE)
        tables = [(x[:3], x[3:].reshape(3, 3)) for x in (theta, reference)]
        (first, second), (ref_first, ref_second) = jax.tree.map(jax.nn.log_softmax, tables)
        visits = jax.lax.stop_gradient(jnp.exp(first))
        at_second = (jnp.exp(ref_second) * (ref_second - second)).sum(-1)
        return (jnp.exp(ref_first) * (ref_first - first)).sum() + visits @ at_second

    np.testing.assert_allclose(2 * rows.mean(loss), _gradient(forward), atol=1e-14)
    assert np.abs(2 * rows.mean(loss) - _gradient(tree.kl)).max() > 0.05


def test_kl_estimators_as_values_and_as_losses():
    rows, logps = Rows(THETA), tree.logps(jnp.asarray(THETA))

    def ratios(theta):
        return tree.logps(theta) - tree.logps(jnp.asarray(REFERENCE))

    for estimator in (k1, k3):
        np.testing.assert_allclose(rows.weights @ estimator(ratios(THETA)), tree.kl(jnp.asarray(THETA)))
    assert abs(rows.weights @ k2(ratios(THETA)) - tree.kl(jnp.asarray(THETA))) > 1e-3

    def forward(theta):
        reference = tree.logps(jnp.asarray(REFERENCE))
        return (jnp.exp(reference) * (reference - tree.logps(theta))).sum()

    for estimator, objective in ((k1, lambda theta: 0 * theta[0]), (k2, tree.kl), (k3, forward)):
        found = rows.mean(lambda theta, index, e=estimator: e(ratios(theta))[index[:, 0]])
        np.testing.assert_allclose(found, _gradient(objective), atol=1e-14)
    assert np.isfinite(logps).all()


def test_k3_far_away():
    slope = jax.vmap(jax.grad(k3))
    far = jnp.array([-1e4, -41.0, 1e4])
    assert np.isfinite(k3(far)).all()
    assert (slope(far)[:2] < 0).all()
    np.testing.assert_allclose(slope(far)[2], 1.0)
    near = jnp.array([-39.0, -1e-9, 0.0, 2.0])
    np.testing.assert_allclose(k3(near), np.expm1(-np.asarray(near)) + np.asarray(near), rtol=1e-12)


def test_kl_to_go_skips_what_is_not_scored():
    logps, reference = jnp.arange(5.0) + 1, jnp.zeros(5).at[2].set(jnp.nan)
    mask = jnp.array([True, True, False, True, False])
    np.testing.assert_array_equal(kl_to_go(logps, reference, mask), [7, 6, 4, 4, 0])
    assert not np.abs(jax.jacobian(kl_to_go)(logps, reference, mask)).any()


def _drawn(b=3, k=4, r=5, seed=0):
    rng = np.random.default_rng(seed)
    logps = rng.normal(-2, 1, (b, k, r))
    mask = np.arange(r) < rng.integers(1, r + 1, (b, k, 1))
    mask[1, 2] = False  # an absent response
    return {
        "token_logps": logps,
        "behaviour_token_logps": logps + rng.normal(0, 0.3, logps.shape),
        "reference_token_logps": logps + rng.normal(0, 0.5, logps.shape),
        "values": rng.normal(size=logps.shape),
        "behaviour_values": rng.normal(size=logps.shape),
        "scores": rng.normal(size=(b, k)),
        "mask": mask,
    }


def test_swapping_the_two_responses_turns_the_sign():
    x = _drawn()
    p = np.random.default_rng(1).uniform(size=x["scores"].shape)
    names = ("token_logps", "reference_token_logps", "mask")
    first, second, even = (
        losses.nash_md(**{n: x[n] for n in names}, win_rates=q, tau=0.0) for q in (p, 1 - p, 0 * p + 0.5)
    )
    np.testing.assert_allclose(first, -np.asarray(second), rtol=1e-12)
    np.testing.assert_array_equal(even, 0)


def test_rloo_by_hand():
    x = _drawn()
    where = x["mask"].any(-1)
    sums = {
        n: np.where(x["mask"], x[n], 0).sum(-1)
        for n in ("token_logps", "behaviour_token_logps", "reference_token_logps")
    }
    logps, behaviour, reference = sums.values()
    rewards = x["scores"] - 0.1 * (behaviour - reference)
    expected = np.zeros_like(rewards)
    for i, j in np.argwhere(where):
        others = [m for m in range(4) if where[i, m] and m != j]
        advantage = rewards[i, j] - np.mean(rewards[i, others])
        w = np.exp(logps[i, j] - behaviour[i, j])
        expected[i, j] = -min(w * advantage, np.clip(w, 0.8, 1.2) * advantage)
    found = losses.rloo(logps, reference, behaviour, x["scores"], where, beta=0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    alone = np.array([[True, False, False, False]] * 3)
    np.testing.assert_array_equal(leave_one_out(jnp.asarray(rewards), alone), 0)


@pytest.mark.parametrize("token_mean", [False, True])
def test_grpo_by_hand(token_mean):
    x = _drawn()
    mask, scores = x["mask"], x["scores"]
    u, w = (x["token_logps"] - x[f"{n}_token_logps"] for n in ("reference", "behaviour"))
    expected = np.zeros_like(scores)
    for i, j in np.argwhere(mask.any(-1)):
        group = scores[i, mask[i].any(-1)]
        a = (scores[i, j] - group.mean()) / (group.std(ddof=1) + 1e-4)
        tokens = [
            -min(np.exp(w[i, j, n]) * a, np.clip(np.exp(w[i, j, n]), 0.8, 1.2) * a)
            + 0.04 * (np.exp(-u[i, j, n]) - 1 + u[i, j, n])
            for n in np.flatnonzero(mask[i, j])
        ]
        expected[i, j] = (
            np.sum(tokens) * mask[i].any(-1).sum() / mask[i].sum() if token_mean else np.mean(tokens)
        )
    names = ("token_logps", "reference_token_logps", "behaviour_token_logps", "scores", "mask")
    found = losses.grpo(*(x[n] for n in names), token_mean=token_mean)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_a_group_of_equal_scores_has_no_gradient():
    x = _drawn()
    equal, sums = np.full_like(x["scores"], 0.7), x["token_logps"].sum(-1)
    where = np.ones_like(equal, bool)

    def of_sums(logps):
        return losses.rloo(logps, sums, sums, equal, where, beta=0.0).sum()

    def of_tokens(logps):
        return losses.grpo(logps, x["reference_token_logps"], logps, equal, x["mask"], beta=0.0).sum()

    for loss, at in ((of_sums, sums), (of_tokens, x["token_logps"])):
        np.testing.assert_allclose(jax.jit(jax.grad(loss))(at), 0, atol=1e-11)


def test_a_group_of_one_is_refused():
    x = _drawn(k=4)
    one = {n: v[:, :1] for n, v in x.items()}
    with pytest.raises(ValueError, match=r"rloo: .*k = 1.*reinforce"):
        losses.rloo(*(one["scores"],) * 4, one["mask"].any(-1))
    with pytest.raises(ValueError, match=r"grpo: .*k = 1.*reinforce"):
        losses.grpo(
            one["token_logps"],
            one["reference_token_logps"],
            one["behaviour_token_logps"],
            one["scores"],
            one["mask"],
        )


def _advantages(rewards, values, mask, gamma, gae_lambda):
    """One response, backwards over its scored tokens."""
    found, advantage, after = np.zeros_like(rewards), 0.0, 0.0
    for n in reversed(np.flatnonzero(mask)):
        advantage = rewards[n] + gamma * after - values[n] + gamma * gae_lambda * advantage
        found[n], after = advantage, values[n]
    return found


def test_generalised_advantages_by_hand():
    rng = np.random.default_rng(3)
    rewards, values = rng.normal(size=(2, 3, 6))
    mask = np.array([[1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0]], bool)
    found = jax.jit(generalised_advantages)(rewards, values, mask, gamma=0.9, gae_lambda=0.8)
    expected = [_advantages(*row, 0.9, 0.8) for row in zip(rewards, values, mask, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-14)
    to_end = generalised_advantages(rewards, values, mask, gamma=1.0, gae_lambda=1.0)
    returns = np.where(mask, rewards, 0)[:, ::-1].cumsum(-1)[:, ::-1]
    np.testing.assert_allclose(to_end, np.where(mask, returns - values, 0), atol=1e-14)
    # delta alone: 1, ..., no look further than the next value
    step = generalised_advantages(rewards, values, mask, gamma=1.0, gae_lambda=0.0)
    np.testing.assert_allclose(step[0, 1], rewards[0, 1] + values[0, 2] - values[0, 1])


def test_the_score_is_paid_at_the_last_token():
    logps, mask = jnp.zeros((1, 2, 4)), jnp.array([[[1, 1, 1, 0], [1, 0, 0, 0]]], bool)
    found = token_rewards(logps + 0.5, logps, jnp.array([[3.0, 4.0]]), mask, kl_coef=0.2)
    np.testing.assert_allclose(found, [[[-0.1, -0.1, 2.9, 0], [3.9, 0, 0, 0]]], rtol=1e-12)


def test_whitening_is_over_scored_tokens():
    values, mask = np.random.default_rng(0).normal(3, 5, (2, 3, 4)), np.arange(4) < np.array([[[4]], [[2]]])
    mask = np.broadcast_to(mask, values.shape)
    found = np.asarray(whitened(jnp.asarray(values), jnp.asarray(mask)))
    np.testing.assert_allclose([found[mask].mean(), found[mask].std()], [0, 1], atol=1e-8)
    np.testing.assert_array_equal(found[~mask], 0)


def test_ppo_by_hand():
    x = _drawn(seed=4)
    mask, old = x["mask"], x["behaviour_values"]
    advantages = np.zeros_like(old)
    for i, j in np.argwhere(mask.any(-1)):
        rewards = -0.05 * (x["behaviour_token_logps"][i, j] - x["reference_token_logps"][i, j])
        rewards[np.flatnonzero(mask[i, j])[-1]] += x["scores"][i, j]
        advantages[i, j] = _advantages(rewards, old[i, j], mask[i, j], 1.0, 0.95)
    white = (advantages - advantages[mask].mean()) / advantages[mask].std()
    expected = np.zeros_like(x["scores"])
    for i, j, n in np.argwhere(mask):
        at = (i, j, n)
        target, a = advantages[at] + old[at], white[at]
        w = np.exp(x["token_logps"][at] - x["behaviour_token_logps"][at])
        v = x["values"][at]
        held = np.clip(v, old[at] - 0.2, old[at] + 0.2)
        expected[i, j] += max(-w * a, -np.clip(w, 0.8, 1.2) * a)
        expected[i, j] += 0.1 * max((v - target) ** 2, (held - target) ** 2) / 2
    found = losses.ppo(**x)
    assert found[1, 2] == 0, "an absent response"
    # The mean over responses that exist is the mean over tokens.
    np.testing.assert_allclose(found[mask.any(-1)].mean(), expected.sum() / mask.sum(), rtol=1e-7)
    np.testing.assert_allclose(found, expected * mask.any(-1).sum() / mask.sum(), rtol=1e-6, atol=1e-9)


def test_ppo_clips_what_went_far_enough():
    x = _drawn(seed=4)
    slopes = jax.grad(lambda logps: losses.ppo(**(x | {"token_logps": logps})).sum())
    far = x["behaviour_token_logps"] + 1.0  # every ratio is above 1.2
    gained = np.asarray(slopes(far))[x["mask"]]
    assert (gained >= 0).all(), "only what should fall still has a gradient"
    assert (gained == 0).any()
    assert (gained > 0).any()
