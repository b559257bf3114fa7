"""Segments of behaviour: the table, the batch, and a run of the common loop on them."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpref import losses
from jaxpref.algorithms import offline, sft
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data import Loader, SegmentRecords
from jaxpref.experiment import Experiment, Stage
from jaxpref.policies.states import state_table
from jaxpref.training.run import train
from jaxpref.types import check_segments

STATES, ACTIONS, N = 5, 3, 64


def pairs(n=N):
    """Segments of three steps; more of action 2 is preferred."""
    generator = np.random.default_rng(0)
    states, actions = (generator.integers(0, high, (n, 2, 3)) for high in (STATES, ACTIONS))
    counts = (actions == 2).sum(-1)
    second = np.where(counts[:, 1] == counts[:, 0], 0.5, counts[:, 1] > counts[:, 0])
    return SegmentRecords.pairs(states, actions, second)


def everyone():
    return pairs().flat()


def decided():
    """Pairs whose first segment is preferred: their order is the label, as in all losses of pairs."""
    return pairs().take(pairs().preferences[:, 0, 1] == 1)


def within():
    """Segments without the last state."""
    records = everyone()
    return records.take((records.observations < STATES - 1).all((1, 2)))


def optax_sgd():
    return optax.sgd(0.1)


def test_labels_say_who_is_preferred():
    records = SegmentRecords.pairs(np.zeros((3, 2, 4)), np.zeros((3, 2, 4, 2)), np.array([1.0, 0.25, 0.5]))
    np.testing.assert_allclose(records.preferences[:, 1, 0], [1.0, 0.25, 0.5])
    np.testing.assert_allclose(records.preferences[:, 0, 1], [0.0, 0.75, 0.5])
    assert len(records.preferred()) == 1 + 1 + 2
    ordered = SegmentRecords(np.zeros((1, 3, 2)), np.zeros((1, 3, 2)), np.full((1, 3), 2))
    np.testing.assert_array_equal(ordered.preferences[0], [[0.5, 1, 1], [0, 0.5, 1], [0, 0, 0.5]])


def test_batches_are_padded_and_masked():
    records = SegmentRecords(
        np.arange(12.0).reshape(2, 1, 6), np.zeros((2, 1, 6), np.int64), np.array([[2], [5]])
    )
    batch = Loader(records, batch_size=4, shuffle=False).batch(0)
    assert batch.observations.shape == (4, 1, 8)
    np.testing.assert_array_equal(batch.lengths[:, 0], [2, 5, 2, 5])
    padded = next(Loader(records, batch_size=4, shuffle=False).evaluation_batches())
    np.testing.assert_array_equal(padded.valid, [True, True, False, False])
    assert int(padded.num_tokens) == 7
    check_segments(padded)
    with pytest.raises(ValueError, match="row has 5 steps"):
        records.rows([1], response_length=4)


def test_files_round_trip(tmp_path):
    mine = np.arange(2.0 * N).reshape(N, 2)
    records = pairs().with_column("annotators", np.arange(N)).with_column("mine", mine, axes="b d")
    records.save(tmp_path / "r.npz")
    back = SegmentRecords.load(tmp_path / "r.npz")
    for name in ("observations", "actions", "step_lengths", "preferences", "group"):
        np.testing.assert_array_equal(getattr(back, name), getattr(records, name))
    np.testing.assert_array_equal(back.columns["annotators"], np.arange(N))
    assert back.rows([0]).axes_of("mine") == ("b", "d")
    whole = (tmp_path / "r.npz").read_bytes()
    (tmp_path / "r.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"r\.npz: no segments could be read"):
        SegmentRecords.load(tmp_path / "r.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"second_preferred": np.full(N, 1.5)}, r"label 0 is 1\.5; expected a probability"),
        ({"second_preferred": np.full(N, np.nan)}, "label 0 is nan"),
        ({"second_preferred": np.ones(3)}, r"expected pairs \[n, 2, t, \.\.\.\] and n labels"),
        ({"actions": np.zeros((N, 2, 2), np.int64)}, "segments: actions: expected"),
        ({"observations": np.full((N, 2, 3), np.inf)}, "observations: row 0 has a number that is not finite"),
        ({"step_lengths": np.full((N, 2), 4)}, "row 0, segment 0 has 4 steps; expected 1 to 3"),
        ({"step_lengths": np.zeros((N, 2), np.int64)}, "has 0 steps"),
    ],
)
def test_bad_segments_are_named(change, message):
    given = {
        "observations": np.zeros((N, 2, 3)),
        "actions": np.zeros((N, 2, 3), np.int64),
        "second_preferred": np.ones(N),
    }
    with pytest.raises(ValueError, match=message):
        SegmentRecords.pairs(**(given | change))


def test_actions_fit_the_policy():
    with pytest.raises(ValueError, match="numbers up to 2, and the policy takes one of 2"):
        pairs().check_vocab(2)
    with pytest.raises(ValueError, match="numbers up to 2, and the policy gives vectors"):
        pairs().check_vocab(0)


def test_segments_train_in_the_common_loop(tmp_path):
    """Imitation of all segments, then DPO on pairs with the reference of the first stage."""
    optimizer = partial(adamw, schedule=partial(constant, value=0.1), clip_norm=None)
    stage = partial(Stage, num_steps=20, batch_size=16, checkpoint_every=20, evaluate_every=20)
    experiment = Experiment(
        name="segments",
        policy=partial(state_table, states=STATES, actions=ACTIONS),
        tokenizer=None,
        stages=(
            stage(name="sft", algorithm=partial(sft, optimizer=optimizer), train=everyone),
            stage(
                name="dpo",
                algorithm=partial(offline, loss=partial(losses.dpo, beta=1.0), optimizer=optimizer),
                train=decided,
                evaluation=decided,
            ),
        ),
    )
    lines = []
    result = train(experiment, tmp_path, log=lines.append)
    probabilities = jax.nn.softmax(result.params["logits"], -1)
    assert (probabilities.argmax(-1) == 2).all()
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    said = "\n".join(lines)
    assert "dpo  20/20" in said
    assert "mfu" not in said  # a table counts no operations, and 0 would read as idle
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any("tokens_per_second" in row for row in rows)
    assert not any("mfu" in row for row in rows)
    assert "rewards/accuracies" in said or "reward accuracy" in said


def test_a_controller_answers_no_prompts():
    policy = state_table(states=STATES, actions=ACTIONS)
    params = policy.init(jax.random.key(0))
    with pytest.raises(ValueError, match="answers no prompts"):
        policy.sample(params, None, jax.random.key(0), max_tokens=1)
    best = {"logits": jnp.eye(STATES, ACTIONS)}
    np.testing.assert_array_equal(policy.act(best, jnp.arange(3), None), [0, 1, 2])
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.vmap(lambda key: policy.act(best, jnp.zeros((), int), key))(keys)
    shares = np.bincount(drawn, minlength=3) / 4000
    np.testing.assert_allclose(shares, jax.nn.softmax(best["logits"][0]), atol=0.03)
    np.testing.assert_array_equal(policy.token_logps(params, pairs(2).rows([0, -1]))[1], 0)


def test_records_that_the_policy_cannot_read_stop_the_run_at_once(tmp_path):
    """Training or held-out ones; the policy has one state fewer than the records."""
    stage = Stage(
        name="sft", algorithm=partial(sft, optimizer=optax_sgd), train=everyone, num_steps=1, batch_size=8
    )
    experiment = Experiment("small", partial(state_table, states=STATES - 1, actions=ACTIONS), None, (stage,))
    with pytest.raises(ValueError, match="is in state 4, and the world has states 0 to 3"):
        train(experiment, tmp_path / "a", log=lambda line: None)
    held = dataclasses.replace(stage, train=within, evaluation=everyone)
    with pytest.raises(ValueError, match="is in state 4"):
        train(dataclasses.replace(experiment, stages=(held,)), tmp_path / "b", log=lambda line: None)
