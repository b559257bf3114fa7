"""Arms: what may be asked for anywhere, and, where Meta-World is installed, that restored states repeat."""

import sys

import numpy as np
import pytest

from jaxpref.environments.metaworld import EXACT_TASKS, Arm, scored_segments


def test_tasks_that_cannot_be_scored_are_named(monkeypatch):
    with pytest.raises(ValueError, match="sweep-into-v3: a restored state does not repeat itself"):
        scored_segments(task="sweep-into-v3", episodes=1)
    for wrong in ({"steps": 150}, {"episodes": 0}, {"per_episode": 6}):
        with pytest.raises(ValueError, match="expected steps < horizon"):
            scored_segments(**{"task": EXACT_TASKS[0], "episodes": 1} | wrong)
    monkeypatch.setitem(sys.modules, "metaworld.env_dict", None)
    with pytest.raises(ValueError, match="Meta-World is not installed"):
        Arm(EXACT_TASKS[0])


@pytest.mark.parametrize("task", EXACT_TASKS)
def test_restored_states_repeat_the_expert_exactly(task):
    pytest.importorskip("metaworld")
    arm, generator = Arm(task), np.random.default_rng(0)
    first, _ = arm.reset(seed=3)
    other, _ = arm.reset(seed=4)
    again, _ = arm.reset(seed=3)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (35,)
    assert np.abs(first - other).max() > 1e-3
    for i in range(20):
        arm.step(generator.uniform(-1, 1, 4) if i % 2 else arm.expert_action())
    state = arm.snapshot()
    earned = arm.expert_return(state, 40)
    assert arm.expert_return(state, 40) == earned
    # V_m splits where it should: 15 steps, then 25 from there.
    arm.restore(state)
    before = sum(arm.step(arm.expert_action())[1] for _ in range(15))
    assert before + arm.expert_return(arm.snapshot(), 25) == pytest.approx(earned, rel=1e-12)


def test_segments_have_their_shapes():
    pytest.importorskip("metaworld")
    found = scored_segments(task="drawer-open-v3", episodes=2, steps=8, horizon=40, seed=1)
    assert found.observations.shape == (4, 8, 35)
    assert found.actions.shape == (4, 8, 4)
    np.testing.assert_array_equal(found.episodes, [0, 0, 1, 1])
    assert np.isfinite(found.scores).all()
    assert (found.returns > 0).all()
