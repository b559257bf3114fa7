"""Online algorithms on tables: exact expectations, mixtures, other policies, phases, inner updates."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpref import losses
from jaxpref.algorithms import online
from jaxpref.algorithms.copies import averaged, copied, frozen
from jaxpref.algorithms.mixtures import nash_md, pilaf, xpo
from jaxpref.judges import matrix_judge, rule_scorer
from jaxpref.policies.tabular import tabular
from jaxpref.selection import max_min, soft_pair, versus
from jaxpref.types import Completions

DICE = ((0.5, 5 / 9, 4 / 9), (4 / 9, 0.5, 5 / 9), (5 / 9, 4 / 9, 0.5))
LOGITS = ((0.3, -0.2, 0.1), (0.0, 0.5, -1.0))


def _policy():
    return tabular(prompts=2, vocab=3, initial=LOGITS)


def _prompts(*which) -> Completions:
    """Rows with a recorded pair (token 0 beats token 1)."""
    b = len(which)
    tokens = jnp.broadcast_to(jnp.array([[[0], [1]]]), (b, 2, 1)).astype(jnp.int32)
    return Completions(
        jnp.array(which, jnp.int32)[:, None], jnp.ones((b, 1), bool), tokens, jnp.ones((b, 2, 1), bool)
    )


def dice():
    return matrix_judge(lambda record: record.response_tokens[..., 0], DICE)


def points():
    return rule_scorer(lambda record: record.response_tokens[..., 0].astype(jnp.float32))


def _online(**settings):
    defaults = dict(
        loss=losses.dpo,
        optimizer=partial(optax.sgd, 1.0),
        sample_from=({"policy": 1.0},) * 2,
        max_tokens=1,
        judge=dice,
        select=soft_pair,
    )
    return online(_policy(), **(defaults | settings))


def _soft(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps, pair_preferences):
    h = chosen_logps - rejected_logps - reference_chosen_logps + reference_rejected_logps
    return -pair_preferences * jax.nn.log_sigmoid(h) - (1 - pair_preferences) * jax.nn.log_sigmoid(-h)


def _state(algorithm, shift=0.5):
    state = algorithm.init(_policy().init(jax.random.key(0)))
    moved = state.params["logits"] + shift * jnp.arange(3.0)[None]
    return dataclasses.replace(state, params={"logits": moved})


def _update(algorithm, state, batch, key):
    collected, _ = algorithm.collect(state, batch, key)
    new, metrics = jax.jit(algorithm.step)(state, collected, key)
    return new.params["logits"] - state.params["logits"], metrics


def test_exact_collection_gives_the_expected_gradient():
    algorithm = _online(loss=_soft, exact=True)
    state = _state(algorithm)

    def objective(logits):
        """Mean over prompts of sum_ij sg(pi_i pi_j) CE(P_ij, sigmoid(h_ij)); identical pairs are left out."""
        logps = jax.nn.log_softmax(logits)
        ratio = logps - jax.nn.log_softmax(jnp.array(LOGITS))
        h = ratio[:, :, None] - ratio[:, None]
        weight = jax.lax.stop_gradient(jnp.exp(logps[:, :, None] + logps[:, None]))
        weight = jnp.where(jnp.eye(3, dtype=bool)[None], 0, weight)
        p = jnp.broadcast_to(jnp.array(DICE), h.shape)
        ce = -p * jax.nn.log_sigmoid(h) - (1 - p) * jax.nn.log_sigmoid(-h)
        return (weight * ce).sum() / weight.sum()

    moved, _ = _update(algorithm, state, _prompts(0, 1), jax.random.key(0))
    np.testing.assert_allclose(-moved, jax.grad(objective)(state.params["logits"]), atol=1e-6)


def test_exact_collection_weighs_lists_by_their_probability():
    """A list loss too is a mean over tuples of responses, each with its probability."""

    def squares(logps, scores, where):
        return jnp.where(where, logps * scores, 0).sum(-1)

    rewards = jnp.array([[0.3, 1.0, 2.0], [0.5, -1.0, 0.1]])

    def scored(everyone, batch):
        return rewards[batch.prompt_tokens[:, 0][:, None], batch.response_tokens[..., 0]]

    algorithm = _online(
        loss=squares, exact=True, judge=None, select=None, scorer=lambda: scored, reference=None
    )
    state = _state(algorithm)
    logps = np.asarray(jax.nn.log_softmax(state.params["logits"]), np.float64)
    terms = logps * np.asarray(rewards)
    p = np.exp(logps)
    expected = np.mean([2 * (p[x] * terms[x]).sum() for x in range(2)])
    _, metrics = _update(algorithm, state, _prompts(0, 1), jax.random.key(0))
    assert float(metrics["loss"].value) == pytest.approx(expected, rel=1e-5)
    uniform = np.mean([2 * terms[x].mean() for x in range(2)])
    assert abs(uniform - expected) > 0.05, "what a mean that ignores the weights would give"


def test_exact_hybrid_collection_gives_the_gradient_of_dpo_and_the_kl():
    """HyPO: each recorded pair meets all pairs of samples; weights of the records stay."""
    loss = partial(losses.hypo, beta=0.5, kl_weight=0.3)
    algorithm = _online(loss=loss, hybrid=True, exact=True, judge=None, select=None)
    state, share = _state(algorithm), jnp.array([1.0, 3.0])
    batch = dataclasses.replace(_prompts(0, 1), columns={"weights": share})

    def objective(logits):
        logps = jax.nn.log_softmax(logits)
        ratio = logps - jax.nn.log_softmax(jnp.array(LOGITS))
        dpo = -jax.nn.log_sigmoid(0.5 * (ratio[:, 0] - ratio[:, 1]))
        return (share * (dpo + 0.3 * (jnp.exp(logps) * ratio).sum(-1))).sum() / share.sum()

    moved, metrics = _update(algorithm, state, batch, jax.random.key(0))
    np.testing.assert_allclose(-moved, jax.grad(objective)(state.params["logits"]), atol=1e-6)
    logps, reference = jax.nn.log_softmax(state.params["logits"]), jax.nn.log_softmax(jnp.array(LOGITS))
    kl = np.average((jnp.exp(logps) * (logps - reference)).sum(-1), weights=share)
    assert float(metrics["objective/kl"].value) == pytest.approx(kl, abs=1e-6)


def test_metrics_of_draws_are_expectations_under_the_policy_by_the_weight_of_each_row():
    algorithm = _online(
        exact=True, scorer=points, select=None, sample_from=({"policy": 1.0}, {"initial": 1.0})
    )
    state, share = _state(algorithm), np.array([1.0, 3.0])
    batch = dataclasses.replace(_prompts(0, 1), columns={"weights": jnp.asarray(share)})
    _, metrics = algorithm.collect(state, batch, jax.random.key(0))
    own, other = (np.asarray(jax.nn.softmax(x, -1)) for x in (state.params["logits"], jnp.array(LOGITS)))
    wins = np.einsum("bi,ij,bj->b", own, DICE, other)
    found = {name: float(metrics[f"objective/{name}"].value) for name in ("scores", "win_rate")}
    expected = {"scores": np.average(own @ np.arange(3), weights=share), "win_rate": wins @ share / 4}
    assert found == pytest.approx(expected, abs=1e-6)


def test_sampled_updates_average_to_the_exact_one():
    exact, sampled = (_online(loss=_soft, select=None, exact=e, judge=dice) for e in (True, False))
    state, rows = _state(exact), 64
    wanted, _ = _update(exact, state, _prompts(0), jax.random.key(0))
    batch = _prompts(*[0] * rows)
    moved = np.stack([_update(sampled, state, batch, jax.random.key(i))[0][0] for i in range(60)])
    error = moved.std(0, ddof=1) / np.sqrt(len(moved))
    assert (np.abs(moved.mean(0) - wanted[0]) < 4 * error + 1e-6).all()


@pytest.mark.parametrize("sample_from", [nash_md(0.25), xpo(), pilaf(0.5)], ids=["nash_md", "xpo", "pilaf"])
def test_exact_weights_are_probabilities_of_the_mixtures(sample_from):
    algorithm = _online(sample_from=sample_from, exact=True, select=None)
    state = _state(algorithm)
    record, _ = algorithm.collect(state, _prompts(1), jax.random.key(0))
    logits = {"policy": state.params["logits"][1], "initial": jnp.array(LOGITS[1])}
    choices = [sample_from] if isinstance(sample_from[0], dict) else sample_from
    wanted = sum(
        np.outer(*(jax.nn.softmax(sum(w * logits[n] for n, w in draw.items())) for draw in one))
        for one in choices
    ) / len(choices)
    found = np.zeros((3, 3))
    np.add.at(
        found, tuple(np.asarray(record.response_tokens[..., 0]).T), np.asarray(record.columns["weights"])
    )
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert found.sum() == pytest.approx(1, abs=1e-6)


def test_draws_of_members_follow_their_mixture():
    """Frequencies of sampled pairs within four standard errors of the exact weights."""
    sample_from, rows = nash_md(0.5), 4000
    algorithm = _online(sample_from=sample_from, select=None)
    state = _state(algorithm, shift=1.0)
    record, metrics = algorithm.collect(state, _prompts(*[0] * rows), jax.random.key(1))
    second = np.asarray(record.response_tokens[:, 1, 0])
    mixed = 0.5 * state.params["logits"][0] + 0.5 * jnp.array(LOGITS[0])
    p = np.asarray(jax.nn.softmax(mixed))
    frequency = np.bincount(second, minlength=3) / rows
    assert (np.abs(frequency - p) < 4 * np.sqrt(p * (1 - p) / rows)).all()
    np.testing.assert_array_equal(record.columns["on_policy"], [[True, False]] * rows)
    own = np.asarray(jax.nn.softmax(state.params["logits"][0]))
    rate = float(own @ np.array(DICE) @ p)
    assert float(metrics["objective/win_rate"].value) == pytest.approx(rate, abs=4 * 0.06 / np.sqrt(rows))


def test_behaviour_is_the_anchor_of_a_phase():
    """BPO: inside a phase the anchor stays; where a phase begins every margin is 0 and the loss log 2."""
    algorithm = _online(
        sample_from=({"behaviour": 1.0},) * 2,
        policies={"behaviour": partial(copied, every=3)},
        reference="behaviour",
        loss=_soft,
        exact=True,
    )
    state = algorithm.init(_policy().init(jax.random.key(0)))
    anchors, first = [], []
    for i in range(6):
        anchors.append(np.asarray(state.policies["behaviour"]["logits"]))
        collected, _ = algorithm.collect(state, _prompts(0, 1), jax.random.key(i))
        state, metrics = jax.jit(algorithm.step)(state, collected, jax.random.key(i))
        first.append(float(metrics["loss"].value))
    np.testing.assert_array_equal(anchors[0], anchors[2])
    np.testing.assert_array_equal(anchors[3], anchors[5])
    assert (anchors[2] != anchors[3]).any()
    assert first[0] == pytest.approx(np.log(2), abs=1e-6)
    assert first[3] == pytest.approx(np.log(2), abs=1e-6)
    assert max(first[1], first[4]) < np.log(2)


def test_rules_of_other_policies():
    algorithm = _online(
        policies={"average": partial(averaged, decay=0.75), "start": frozen},
        sample_from=({"policy": 1.0}, {"average": 1.0}),
        loss=_soft,
        exact=True,
    )
    state = algorithm.init(_policy().init(jax.random.key(0)))
    before = np.asarray(state.params["logits"])
    collected, _ = algorithm.collect(state, _prompts(0, 1), jax.random.key(0))
    new, _ = jax.jit(algorithm.step)(state, collected, jax.random.key(0))
    np.testing.assert_array_equal(new.policies["start"]["logits"], before)
    np.testing.assert_array_equal(new.policies["initial"]["logits"], before)
    np.testing.assert_allclose(
        new.policies["average"]["logits"], 0.75 * before + 0.25 * np.asarray(new.params["logits"]), atol=1e-6
    )


def test_recorded_pairs_come_before_the_drawn_responses():
    algorithm = _online(
        hybrid=True, judge=None, select=None, scorer=points, sample_from=({"policy": 1.0},) * 3
    )
    state = _state(algorithm)
    record, metrics = algorithm.collect(state, _prompts(0, 1, 1), jax.random.key(0))
    np.testing.assert_array_equal(record.response_tokens[:, :2, 0], [[0, 1]] * 3)
    np.testing.assert_array_equal(record.columns["on_policy"], [[False] * 2 + [True] * 3] * 3)
    drawn = np.asarray(record.response_tokens[:, 2:, 0])
    assert float(metrics["objective/scores"].value) == pytest.approx(drawn.mean())


def test_every_recorded_pair_meets_every_response_of_an_exact_expectation():
    """Its weight is that of the pair times the probability of the response."""
    algorithm = _online(
        hybrid=True, exact=True, judge=None, select=None, loss=losses.spac, sample_from=({"policy": 1.0},)
    )
    state, batch = _state(algorithm), _prompts(0, 1)
    given = {"weights": jnp.array([0.25, 0.75])}
    batch = dataclasses.replace(batch, columns=given)
    record, _ = algorithm.collect(state, batch, jax.random.key(0))
    np.testing.assert_array_equal(record.response_tokens[:, :, 0], [[0, 1, i] for i in range(3)] * 2)
    p = jax.nn.softmax(state.params["logits"], -1)
    np.testing.assert_allclose(record.columns["weights"], (given["weights"][:, None] * p).ravel(), atol=1e-6)


def test_rows_of_padding_stay_padding():
    batch = _prompts(0, 1)
    mask = batch.response_mask.at[1].set(False)
    batch = Completions(batch.prompt_tokens, batch.prompt_mask, batch.response_tokens, mask)
    for exact in (False, True):
        algorithm = _online(loss=_soft, exact=exact)
        state = _state(algorithm)
        one, _ = _update(algorithm, state, batch, jax.random.key(0))
        assert (np.asarray(one[1]) == 0).all()
        assert exact is False or (np.asarray(one[0]) != 0).all()


def test_one_pass_in_one_part_is_the_plain_step_and_more_are_more_updates():
    plain, parts = _online(loss=_soft, select=None), _online(loss=_soft, select=None, epochs=2, minibatches=2)
    state, batch, key = _state(plain), _prompts(0, 1, 0, 1), jax.random.key(0)
    record, _ = plain.collect(state, batch, key)
    moved = jax.jit(parts.step)(state, record, key)[0]
    assert int(moved.step) == 1
    assert not np.allclose(
        moved.params["logits"], jax.jit(plain.step)(state, record, key)[0].params["logits"]
    )
    # A member that follows the policy does so once a step, at its end: within one, it is where it was.
    policies = {"previous": partial(copied, every=1)}
    following = _online(
        loss=_soft, select=None, epochs=2, minibatches=2, reference="previous", policies=policies
    )
    again = jax.jit(following.step)(_state(following), record, key)[0]
    np.testing.assert_array_equal(again.params["logits"], moved.params["logits"])
    np.testing.assert_array_equal(again.policies["previous"]["logits"], moved.params["logits"])
    with pytest.raises(ValueError, match="does not divide"):
        _online(loss=_soft, minibatches=3).step(state, record, key)


def test_nash_md_moves_towards_the_equilibrium_by_exact_gradients():
    """The fixed point pi_b = ref exp(P(. > m(pi_b)) / tau), m the geometric mixture: arXiv:2312.00886."""
    tau, beta = 0.3, 0.5
    algorithm = _online(
        sample_from=nash_md(beta),
        loss=partial(losses.nash_md, tau=tau),
        select=versus,
        exact=True,
        optimizer=partial(optax.adam, 0.02),
    )
    state = algorithm.init(_policy().init(jax.random.key(0)))
    step = jax.jit(algorithm.step)
    batch = _prompts(0, 1)
    for i in range(300):
        collected, _ = algorithm.collect(state, batch, jax.random.key(i))
        state, _ = step(state, collected, jax.random.key(i))
    ref, p = jax.nn.softmax(jnp.array(LOGITS)), jnp.array(DICE)
    pi = jax.nn.softmax(state.params["logits"])
    mixed = jax.nn.softmax(beta * jnp.log(pi) + (1 - beta) * jnp.log(ref))
    wanted = jax.nn.softmax(jnp.log(ref) + mixed @ p.T / tau)
    np.testing.assert_allclose(pi, wanted, atol=2e-3)


def test_settings_that_cannot_run_are_refused():
    with pytest.raises(ValueError, match="are no policies here"):
        _online(sample_from=({"teacher": 1.0},) * 2)
    with pytest.raises(ValueError, match="one or more responses"):
        _online(sample_from=())
    with pytest.raises(ValueError, match="count from 1"):
        _online(epochs=0)
    with pytest.raises(ValueError, match="trained policy itself"):
        _online(policies={"policy": frozen})
    algorithm = _online(select=max_min, judge=None)
    with pytest.raises(ValueError, match="no preferences"):
        algorithm.collect(_state(algorithm), _prompts(0), jax.random.key(0))


def test_replayed_pairs_meet_the_present_anchor_and_give_more_updates():
    """Two updates a step: the second on the buffer, which after one step of one pair holds that very pair."""
    from jaxpref.algorithms import replayed

    build = partial(
        online,
        loss=losses.dpo,
        optimizer=partial(optax.sgd, 1.0),
        sample_from=({"policy": 1.0},) * 2,
        max_tokens=1,
        scorer=points,
        select=partial(max_min, by="scores"),
    )
    settings = dict(algorithm=build, capacity=16, prompt_length=2, response_length=1)
    algorithm, plain = replayed(_policy(), **settings), build(_policy())
    batch = _prompts(*[0] * 16)
    state = algorithm.init(_policy().init(jax.random.key(0)))
    record, _ = algorithm.collect(state, batch, jax.random.key(3))
    assert np.asarray(record.valid).any()
    one = jax.tree.map(lambda x: x[np.flatnonzero(record.valid)[:1]], record)
    after, metrics = jax.jit(algorithm.step)(state, one, jax.random.key(0))
    twice = plain.init(_policy().init(jax.random.key(0)))
    for _ in range(2):
        twice, _ = jax.jit(plain.step)(twice, one, jax.random.key(0))
    np.testing.assert_allclose(after.params["logits"], twice.params["logits"], atol=1e-6)
    assert int(after.step) == 1
    assert int(after.memory.pushed) == 1
    assert float(metrics["loss"].count) == 2
    with pytest.raises(ValueError, match="room for 1"):
        replayed(_policy(), **(settings | {"prompt_length": 1})).step(
            state, jax.tree.map(lambda x: jnp.repeat(x, 2, 1) if x.ndim == 2 else x, one), jax.random.key(0)
        )
