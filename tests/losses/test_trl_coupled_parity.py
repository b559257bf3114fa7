"""Losses of batches, single responses, tokens and rewards against TRL 0.24's own numbers, in float64.

Where TRL 0.24 computes something else, a test says what: the difference is then known, not assumed.
"""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from trl_values import agrees, arrays, cases, document, labelled, token_arrays, token_sums
from x64 import enable_x64

from jaxpref import losses
from jaxpref.algorithms.inputs import bind

VALUES = document("dpo_loss_values.json")
CASES = cases(VALUES)
FLOAT32 = 1e-6  # TRL keeps a running mean in float32


def _pairs(rows=slice(0, 10)):
    inputs = arrays(VALUES["inputs"], rows)
    return inputs | {"valid": jnp.ones(len(inputs["chosen_logps"]), bool)}


def _of_pair(case):
    return {f"{side}_logps": case[f"gradient_{side}_logps"] for side in ("chosen", "rejected")}


def _of_single(case):
    return {"logps": case["gradient_chosen_logps"] + case["gradient_rejected_logps"]}


@pytest.mark.parametrize("name", ["aot", "aot_pair"])
def test_transport_equals_trl(name):
    """TRL's losses are in sorted order, ours in the row whose value was sorted; `aot_pair` is unpaired."""
    case = CASES[name]
    with enable_x64():
        inputs = _pairs(slice(None))
        sign = {"aot": "rejected_logps", "aot_pair": "reference_chosen_logps"}[name]
        order = np.argsort(np.asarray(inputs["chosen_logps"] - inputs[sign]), stable=True)
        loss = partial({"aot": losses.aot, "aot_pair": losses.aot_unpaired}[name], beta=0.1)
        np.testing.assert_allclose(bind(loss, inputs)[order], case["losses"], rtol=1e-11, atol=1e-13)
        agrees(lambda x: jnp.sort(bind(loss, x)), inputs, np.sort(case["losses"]), _of_pair(case))


@pytest.mark.parametrize("name", ["kto", "kto_weighted"])
def test_kto_equals_trl(name):
    """The KL estimate is made from the same log-probs as the losses, and still has no gradient."""
    given = dict(CASES[name]["parameters"])
    shift = given.pop("kl_shift")

    def loss(inputs):
        mismatched = {
            "mismatched_logps": jnp.tile(inputs["logps"][:10] + shift, 2),
            "reference_mismatched_logps": jnp.tile(inputs["reference_logps"][:10], 2),
        }
        return bind(partial(losses.kto, **given), inputs | mismatched)

    with enable_x64():
        agrees(loss, labelled(_pairs()), CASES[name]["losses"], _of_single(CASES[name]))


def test_unpaired_apo_equals_trl():
    case = CASES["apo_zero_unpaired"]
    with enable_x64():
        loss = partial(losses.apo_zero_unpaired, beta=0.1)
        agrees(partial(bind, loss), labelled(_pairs()), case["losses"], _of_single(case))


@pytest.mark.parametrize("step", [0, 1, 2])
def test_pairwise_classifier_equals_trl_at_its_shift(step):
    case = CASES[f"bco_pair_step_{step}"]
    with enable_x64():
        inputs = _pairs(slice(*case["rows"]))
        loss = partial(losses.bco_pair, beta=0.1, shift=case["shift"])
        agrees(partial(bind, loss), inputs, case["losses"], _of_pair(case))


def test_shift_of_pairs_is_trl_s_while_batches_are_of_one_size():
    """TRL averages the means of batches, `mixed_po` all rewards: the same until a batch is shorter."""
    with enable_x64():
        quality = partial(losses.mixed_po, preference_weight=0.0, quality_weight=1.0, generation_weight=0.0)
        state, means = losses.mixed_po_state(), []
        for step in range(3):
            case = CASES[f"bco_pair_step_{step}"]
            inputs = _pairs(slice(*case["rows"])) | {"state": state}
            if step < 2:
                agrees(
                    lambda x: bind(quality, x)[0],
                    inputs,
                    case["losses"],
                    _of_pair(case),
                    rtol=FLOAT32,
                    gradient_rtol=FLOAT32,
                )
            _, state = bind(quality, inputs)
            ratios = [inputs[f"{s}_logps"] - inputs[f"reference_{s}_logps"] for s in ("chosen", "rejected")]
            means.append(0.1 * float(jnp.concatenate(ratios).mean()))
            np.testing.assert_allclose(case["shift"], np.mean(means), rtol=FLOAT32)
        np.testing.assert_allclose(state.mean, np.average(means, weights=[4, 4, 2]), rtol=FLOAT32)
        assert abs(state.mean - CASES["bco_pair_step_2"]["shift"]) > 1e-3


def test_classifier_equals_trl_where_both_labels_are_equally_frequent():
    """On the first step. Later TRL's shift is the mean of all rewards so far, balanced over nothing."""
    first, second = CASES["bco_step_0"], CASES["bco_step_1"]
    with enable_x64():
        inputs = labelled(_pairs(slice(0, 5))) | {"state": losses.bco_state()}
        loss = partial(losses.bco, beta=0.1)
        agrees(
            lambda x: bind(loss, x)[0],
            inputs,
            first["losses"],
            _of_single(first),
            rtol=FLOAT32,
            gradient_rtol=FLOAT32,
        )
        pairs = _pairs()
        rewards = [
            0.1 * (pairs[f"{s}_logps"] - pairs[f"reference_{s}_logps"]) for s in ("chosen", "rejected")
        ]
        rewards[1] = rewards[1][:8]
        np.testing.assert_allclose(second["shift"], jnp.concatenate(rewards).mean(), rtol=FLOAT32)
        assert abs(second["shift"] - np.mean([r.mean() for r in rewards])) > 1e-4


@pytest.mark.parametrize("name", ["reward", "reward_margins", "reward_centered"])
def test_rewards_equal_trl(name):
    case = CASES[name]
    centering = case["parameters"]["center_rewards_coefficient"] or 0.0
    loss = partial(
        losses.bradley_terry_margin if case["parameters"]["margins"] else losses.bradley_terry,
        centering=centering,
    )
    with enable_x64():
        gradients = {key: case[f"gradient_{key}"] for key in ("chosen_rewards", "rejected_rewards")}
        agrees(partial(bind, loss), arrays(VALUES["rewards"]), case["losses"], gradients)


def test_iterative_rpo_equals_trl():
    case = CASES["rpo"]
    with enable_x64():
        gradients = {f"{s}_token_logps": case[f"gradient_{s}_token_logps"] for s in ("chosen", "rejected")}
        agrees(
            lambda x: bind(losses.iterative_rpo, x | token_sums(x)),
            token_arrays(VALUES["tokens"]),
            case["losses"],
            gradients,
        )


def test_trl_0_24_weights_miss_the_last_token():
    """Log-probs and sums of squares are one position apart there: the last token's log-prob is left out.

    With that taken into account (it is added to the last sum of squares) the numbers are those of `wpo`, with
    its bound at 1; without, they are not.
    """
    case = CASES["wpo"]
    loss = partial(losses.wpo, beta=0.1)
    with enable_x64():
        inputs = token_arrays(VALUES["tokens"])
        shifted = dict(inputs)
        for side in ("chosen", "rejected"):
            last = np.arange(7) == np.asarray(inputs[f"{side}_lengths"])[:, None] - 1
            shifted[f"{side}_log_sum_p2"] += jnp.where(last, inputs[f"{side}_token_logps"], 0)
        gradients = {
            f"{side}_token_logps": case[f"gradient_{side}_token_logps"] for side in ("chosen", "rejected")
        }
        agrees(partial(bind, loss), shifted, case["losses"], gradients)
        assert (np.asarray(bind(loss, inputs)) < 0.7 * np.asarray(case["losses"])).sum() == 3


def test_trl_0_24_counts_the_prompt_as_response_and_spares_the_reference():
    """Its `ld_alpha`: positions start at the prompt, so a response's end is lost; the reference is summed."""
    with enable_x64():
        inputs = token_arrays(VALUES["tokens"])
        lengths = {s: np.asarray(VALUES["tokens"][f"{s}_lengths"])[:, None] for s in ("chosen", "rejected")}
        shared = np.minimum(lengths["chosen"], lengths["rejected"])
        position = 1 + np.arange(7)  # after one token of prompt
        sums = token_sums(inputs)
        for side in lengths:
            weights = np.where(position < shared, 1, 0.3) * (position < lengths[side])
            sums[f"{side}_logps"] = (weights * inputs[f"{side}_token_logps"]).sum(1)
        theirs = np.asarray(CASES["ld_alpha"]["losses"])
        np.testing.assert_allclose(bind(losses.dpo, sums), theirs, rtol=1e-12)
        ours = bind(partial(losses.ld_dpo, beta=0.1, alpha=0.3), inputs)
        assert (np.abs(ours - theirs) > 1e-2).all()
