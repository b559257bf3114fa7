"""Vision-language losses as sums of DPO losses, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import inputs_for
from x64 import enable_x64

from jaxpref import losses
from jaxpref.losses.multimodal import margin_sum


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def _inputs(loss):
    return {n: jnp.asarray(v) for n, v in inputs_for(loss, batch=6).items()}


def _against(x, other):
    """DPO of the chosen response against itself under another image."""
    return losses.dpo(
        x["chosen_logps"],
        x[f"{other}_logps"],
        x["reference_chosen_logps"],
        x[f"reference_{other}_logps"],
        beta=0.3,
    )


def test_mdpo_is_three_dpo_losses():
    x = _inputs(losses.mdpo)
    none = jnp.zeros(6)
    anchor = losses.dpo(x["chosen_logps"], none, x["reference_chosen_logps"], none, beta=0.3)
    expected = _against(x, "rejected") + _against(x, "corrupted") + anchor
    np.testing.assert_allclose(losses.mdpo(**x, beta=0.3), expected, rtol=1e-12)
    renamed = {n.replace("corrupted", "retrieved"): v for n, v in x.items()}
    np.testing.assert_allclose(
        losses.re_align(**renamed, beta=0.3), expected - anchor, rtol=1e-12, atol=1e-13
    )


def test_slopes_at_the_reference():
    for loss, chosen in ((losses.mdpo, -0.15), (losses.re_align, -0.10)):
        x = {n: jnp.ones(6) for n in _inputs(loss)}
        g = jax.grad(lambda x, loss=loss: loss(**x).sum())(x)
        for n, slope in g.items():
            expected = 0 if n.startswith("reference") else chosen if n.startswith("chosen") else 0.05
            np.testing.assert_allclose(slope, expected, atol=1e-15, err_msg=n)


def test_v_dpo_at_one_is_dpo():
    x = _inputs(losses.v_dpo)
    plain = {n: v for n, v in x.items() if "image_free" not in n}
    np.testing.assert_allclose(losses.v_dpo(**x, gamma=1.0), losses.dpo(**plain), rtol=1e-12)


def test_v_dpo_takes_away_what_language_predicts():
    x, g = _inputs(losses.v_dpo), 2.5
    eff = {s: g * x[f"{s}_logps"] - (g - 1) * x[f"{s}_image_free_logps"] for s in ("chosen", "rejected")}
    expected = losses.dpo(
        eff["chosen"], eff["rejected"], x["reference_chosen_logps"], x["reference_rejected_logps"]
    )
    np.testing.assert_allclose(losses.v_dpo(**x, gamma=g), expected, rtol=1e-12)
    # A longer image-free likelihood of the chosen response weakens it.
    more = x | {"chosen_image_free_logps": x["chosen_image_free_logps"] + 1}
    assert (losses.v_dpo(**more, gamma=g) > expected).all()
    # Slope gamma times that of DPO at the same margin.
    slope = jax.grad(lambda c: losses.v_dpo(**(x | {"chosen_logps": c}), gamma=g).sum())(x["chosen_logps"])
    np.testing.assert_allclose(slope, -0.1 * g * -jnp.expm1(-expected), rtol=1e-10)


def test_v_dpo_refuses_a_gamma_that_trains_nothing():
    with pytest.raises(ValueError, match="gamma"):
        losses.v_dpo(**_inputs(losses.v_dpo), gamma=0.0)


def test_margin_sum():
    margins = [jnp.array([0.3, -2.0]), jnp.array([1.0, 4.0])]
    expected = np.log1p(np.exp(-0.5 * np.asarray(margins))).sum(0)
    np.testing.assert_allclose(margin_sum(margins, beta=0.5), expected, rtol=1e-12)
