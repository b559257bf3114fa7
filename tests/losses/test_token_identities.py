"""Token-level and feature-level methods: limits, brute force over tokens, and gradients where some stop."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import inputs_for
from x64 import enable_x64

from jaxpref import losses
from jaxpref.algorithms.inputs import bind
from jaxpref.losses import divergence_offsets, tokenwise

SIDES = ("chosen", "rejected")


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def _inputs(seed=0, batch=6):
    """All that token-level losses ask for, with the sums that belong to the tokens."""
    x = {}
    for loss in (losses.sparse_po, losses.wpo, losses.fpo):
        x |= inputs_for(loss, batch, seed=seed)
    x = {n: jnp.asarray(v, jnp.float64 if v.dtype.kind == "f" else None) for n, v in x.items()}
    for side in SIDES:
        mask = x[f"{side}_mask"]
        x[f"{side}_lengths"] = mask.sum(-1)
        for who in (side, f"reference_{side}"):
            x[f"{who}_token_logps"] = jnp.where(mask, -jnp.abs(x[f"{who}_token_logps"]), 0)
            x[f"{who}_logps"] = x[f"{who}_token_logps"].sum(-1)
    return x


def _close(ours, expected, rtol=1e-11):
    np.testing.assert_allclose(ours, expected, rtol=rtol, atol=1e-13)


def _ones(x):
    names = [f"{side}_{name}_weights" for side in SIDES for name in ("token", "kl")]
    return x | {n: jnp.ones_like(x[n]) for n in names}


NEUTRAL = {
    "ld_dpo": (partial(losses.ld_dpo, alpha=1.0), losses.dpo, {}),
    "tdpo1": (losses.tdpo1, losses.dpo, {"forward_kl": 0.0}),
    "tdpo2 without KL": (losses.tdpo2, losses.dpo, {"forward_kl": 0.0}),
    "tdpo2 at 0": (partial(losses.tdpo2, alpha=0.0), losses.dpo, {}),
    "tdpo2 at 1": (partial(losses.tdpo2, alpha=1.0), losses.tdpo1, {}),
    "sparse_po": (partial(losses.sparse_po, l1_tokens=0, l1_kl=0), losses.tdpo1, {}),
    "sparse_po no KL": (partial(losses.sparse_po, l1_tokens=0, l1_kl=0), losses.dpo, {"kl_weights": 0.0}),
    "fpo": (partial(losses.fpo, alpha=0.0, beta=0.7), partial(losses.ln_dpo, beta=0.7), {}),
    "wpo, certain policy": (partial(losses.wpo, beta=0.1), losses.dpo, {"log_sum_p2": -99.0}),
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_hyper_parameters(name):
    ours, plain, constants = NEUTRAL[name]
    x = _ones(_inputs())
    for suffix, constant in constants.items():
        x |= {f"{s}_{suffix}": jnp.full_like(x[f"{s}_{suffix}"], constant) for s in SIDES}
    _close(bind(ours, x), bind(plain, x))


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_ld_dpo_weighs_what_is_past_the_shorter_response(alpha):
    x = _inputs()
    # Scored tokens need not be adjacent (turns of a dialogue): position counts scored tokens.
    x["chosen_mask"] = x["chosen_mask"].at[0].set(jnp.array([True, False, True, True, False, True]))
    x["rejected_mask"] = x["rejected_mask"].at[0].set(jnp.array([False, True, True, False, False, False]))
    expected = []
    for i in range(6):
        shared = min(int(x[f"{side}_mask"][i].sum()) for side in SIDES)
        score = {}
        for side in SIDES:
            u = (x[f"{side}_token_logps"] - x[f"reference_{side}_token_logps"])[i]
            scored = np.asarray(u)[np.asarray(x[f"{side}_mask"][i])]
            score[side] = scored[:shared].sum() + alpha * scored[shared:].sum()
        expected.append(np.log1p(np.exp(-0.1 * (score["chosen"] - score["rejected"]))))
    _close(bind(partial(losses.ld_dpo, alpha=alpha), x), expected)


def test_ld_dpo_applies_to_the_reference():
    """Policy equal to reference gives log 2 whatever the lengths (TRL < 0.29 weighed the policy only)."""
    x = _inputs()
    x |= {f"{side}_token_logps": x[f"reference_{side}_token_logps"] for side in SIDES}
    assert (x["chosen_mask"].sum(-1) != x["rejected_mask"].sum(-1)).any()
    _close(bind(losses.ld_dpo, x), np.full(6, np.log(2)))


@pytest.mark.parametrize("loss", [losses.ld_dpo, losses.tdpo1, losses.tdpo2, losses.sparse_po, losses.wpo])
def test_unscored_positions_may_hold_nan(loss):
    x = _inputs()
    broken = dict(x)
    for n, v in x.items():
        if v.dtype.kind == "f" and v.ndim == 2 and not n.endswith("features"):
            mask = x["chosen_mask" if "chosen" in n else "rejected_mask"]
            broken[n] = jnp.where(mask, v, jnp.nan)
    _close(bind(loss, broken), bind(loss, x))
    moving = {n: broken[n] for n in broken if n.endswith(("logps", "_kl", "_weights"))}
    gradient = jax.grad(lambda m: bind(loss, broken | m).sum())(moving)
    for n, g in gradient.items():
        assert jnp.isfinite(g).all(), n
        if g.ndim == 2:
            np.testing.assert_array_equal(g[~x["chosen_mask" if "chosen" in n else "rejected_mask"]], 0)


def _frozen(name, x):
    """The formulas with the stopped part held at the values of `x`: plain code, no stop_gradient."""
    u = {s: lambda z, s=s: z[f"{s}_logps"] - z[f"reference_{s}_logps"] for s in SIDES}
    if name == "tdpo2":
        held = (x["chosen_forward_kl"] * x["chosen_mask"]).sum(-1)

        def formula(z):
            kl = (z["rejected_forward_kl"] * x["rejected_mask"]).sum(-1)
            return -jax.nn.log_sigmoid(0.1 * (u["chosen"](z) - u["rejected"](z) - 0.5 * (kl - held)))

        return losses.tdpo2, formula, ("chosen_logps", "rejected_logps", "rejected_forward_kl")
    if name == "fpo":
        order = {s: jnp.argsort(-x[f"{s}_features"], -1)[:, :2] for s in SIDES}

        def gap(z, side):
            difference = z[f"{side}_features"] - z[f"reference_{side}_features"]
            return (jnp.take_along_axis(difference, order[side], -1) ** 2).mean(-1)

        held = gap(x, "chosen")

        def formula(z):
            mean = {s: u[s](z) / x[f"{s}_lengths"] for s in SIDES}
            return jnp.log1p(
                jnp.exp(-0.1 * (mean["chosen"] - mean["rejected"] - 0.5 * (gap(z, "rejected") - held)))
            )

        return partial(losses.fpo, top_k=2), formula, ("chosen_logps", "rejected_logps", "rejected_features")

    excess = [
        ((x[f"{s}_token_logps"] - x[f"{s}_log_sum_p2"]) * x[f"{s}_mask"]).sum(-1) / x[f"{s}_lengths"]
        for s in SIDES
    ]
    weight = jnp.minimum(jnp.exp(excess[0]) * jnp.exp(excess[1]), 1)

    def formula(z):
        sums = [
            ((z[f"{s}_token_logps"] - z[f"reference_{s}_token_logps"]) * x[f"{s}_mask"]).sum(-1)
            for s in SIDES
        ]
        return weight * jnp.log1p(jnp.exp(-0.01 * (sums[0] - sums[1])))

    return losses.wpo, formula, ("chosen_token_logps", "rejected_token_logps")


@pytest.mark.parametrize("name", ["tdpo2", "fpo", "wpo"])
def test_gradient_is_that_of_the_formula_with_the_stopped_part_frozen(name):
    x = _inputs()
    loss, formula, moving = _frozen(name, x)
    _close(bind(loss, x), formula(x))
    ours = jax.grad(lambda m: bind(loss, x | m).sum())({n: x[n] for n in moving})
    rng = np.random.default_rng(0)
    for _ in range(3):
        step = {n: jnp.asarray(rng.normal(size=x[n].shape)) for n in moving}
        ahead, behind = (formula(x | {n: x[n] + e * step[n] for n in moving}).sum() for e in (1e-5, -1e-5))
        slope = sum(float((ours[n] * step[n]).sum()) for n in moving)
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-9)


def test_tdpo_slopes():
    x = _inputs()
    x |= {f"{s}_logps": x[f"reference_{s}_logps"] for s in SIDES}
    x |= {f"{s}_forward_kl": jnp.zeros((6, 6)) for s in SIDES}
    moving = {f"{s}_forward_kl": x[f"{s}_forward_kl"] for s in SIDES}
    for loss, chosen, rejected in ((losses.tdpo1, -0.05, 0.05), (losses.tdpo2, 0.0, 0.025)):
        g = jax.grad(lambda m, loss=loss: bind(loss, x | m).sum())(moving)
        _close(g["chosen_forward_kl"], chosen * x["chosen_mask"])
        _close(g["rejected_forward_kl"], rejected * x["rejected_mask"])


def test_sparse_po_prices_and_moves_its_weights():
    x = _inputs()
    plain = bind(partial(losses.sparse_po, l1_tokens=0, l1_kl=0), x)
    size = {
        kind: sum(jnp.abs(x[f"{s}_{kind}_weights"] * x[f"{s}_mask"]).sum(-1) for s in SIDES)
        for kind in ("token", "kl")
    }
    priced = bind(partial(losses.sparse_po, l1_tokens=0.3, l1_kl=0.7), x)
    _close(priced - plain, 0.3 * size["token"] + 0.7 * size["kl"])
    # Weights 0: the margin is 0, and its slope in a weight is that token's term.
    zero = x | {n: jnp.zeros_like(v) for n, v in x.items() if n.endswith("weights")}
    loss = partial(losses.sparse_po, l1_tokens=0, l1_kl=0)
    _close(bind(loss, zero), np.full(6, np.log(2)))
    for side, sign in zip(SIDES, (-1, 1), strict=True):
        for kind in ("token", "kl"):
            n = f"{side}_{kind}_weights"
            slope = jax.grad(lambda w, n=n: bind(loss, zero | {n: w}).sum())(zero[n])
            ratio = x[f"{side}_token_logps"] - x[f"reference_{side}_token_logps"]
            term = ratio if kind == "token" else x[f"{side}_forward_kl"]
            _close(slope, sign * 0.05 * jnp.where(x[f"{side}_mask"], term, 0))


def test_activation_weights():
    states = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, 3)))
    mask = jnp.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0], [0] * 6], bool)
    weights = tokenwise.activation_weights(states, mask)
    for i in (0, 1):
        level = np.asarray(states[i].mean(-1))[np.asarray(mask[i])]
        normal = (level - level.mean()) / level.std()
        expected = (normal - normal.min()) / (normal.max() - normal.min())
        _close(weights[i][mask[i]], expected)
    _close(weights[2], [1, 0, 0, 0, 0, 0])
    _close(weights[3], np.zeros(6))
    np.testing.assert_array_equal(weights[0, 3:], 0)
    np.testing.assert_array_equal(jax.grad(lambda s: tokenwise.activation_weights(s, mask).sum())(states), 0)


def test_features_are_pooled_over_scored_tokens():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3)))
    mask = jnp.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], bool)
    pooled = divergence_offsets.pooled_features(x.at[~mask].set(jnp.nan), mask)
    _close(pooled, [x[0, :3].mean(0), x[1, 0]])
    longer = jnp.pad(x, ((0, 0), (0, 4), (0, 0)), constant_values=7.0)
    _close(divergence_offsets.pooled_features(longer, jnp.pad(mask, ((0, 0), (0, 4)))), pooled)


def test_feature_gap_looks_at_the_policys_strongest():
    features, reference = jnp.array([[3.0, -1.0, 2.0, 0.0]]), jnp.array([[1.0, 9.0, 2.5, 9.0]])
    _close(divergence_offsets.feature_gap(features, reference, 2), [(4 + 0.25) / 2])
    _close(divergence_offsets.feature_gap(features, reference, 99), [(4 + 100 + 0.25 + 81) / 4])


def test_wpo_weights():
    """Uniform and certain policies weigh 1; more than 1 is cut; a single sequence and a batch agree."""
    x = _inputs()
    vocabulary = 50
    uniform = dict(x)
    for s in SIDES:
        uniform[f"{s}_token_logps"] = jnp.full((6, 6), -np.log(vocabulary))
        uniform[f"{s}_log_sum_p2"] = jnp.full((6, 6), -np.log(vocabulary))
        agreement = tokenwise.log_agreement(
            uniform[f"{s}_token_logps"], uniform[f"{s}_log_sum_p2"], x[f"{s}_mask"]
        )
        _close(agreement, np.zeros(6))
        certain = tokenwise.log_agreement(jnp.zeros((6, 6)), jnp.zeros((6, 6)), x[f"{s}_mask"])
        _close(certain, np.zeros(6))
        uniform[f"{s}_logps"] = tokenwise.token_sum(uniform[f"{s}_token_logps"], x[f"{s}_mask"])
    _close(bind(partial(losses.wpo, beta=0.1), uniform), bind(losses.dpo, uniform))
    base = bind(partial(losses.dpo, beta=0.01), x)
    above = x | {f"{s}_log_sum_p2": jnp.full((6, 6), -50.0) for s in SIDES}
    _close(bind(losses.wpo, above), base)
    weights = bind(losses.wpo, x) / base
    assert ((weights <= 1) & (weights > 0)).all()
    assert (weights < 1).any()
