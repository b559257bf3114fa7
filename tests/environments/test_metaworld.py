"""Arms: what may be asked for anywhere, and, where Meta-World is installed, that restored states continue."""

import ast
import hashlib
import inspect
import sys

import numpy as np
import pytest

from jaxpref.environments import metaworld
from jaxpref.environments.metaworld import COLLECTOR, Arm, own_state, scored_segments, simulator_versions
from jaxpref.syntax import normalised

# version of the collector -> start of the SHA-256 of its code. Where the code changes and not what is
# collected, the digest alone does.
COLLECTORS = {1: "7b09a172baecb983"}
TASK = "sweep-into-v3"  # one of those whose rewards once changed by up to 1.8 a step after a restore


def test_what_cannot_be_scored_is_named(monkeypatch):
    for wrong in ({"steps": 150}, {"episodes": 0}, {"per_episode": 6}):
        with pytest.raises(ValueError, match="expected steps < horizon"):
            scored_segments(**{"task": TASK, "episodes": 1} | wrong)
    monkeypatch.setitem(sys.modules, "metaworld.env_dict", None)
    with pytest.raises(ValueError, match="Meta-World is not installed"):
        Arm(TASK)


def test_what_is_collected_changes_with_its_version():
    """Segments in a cache are found by it; without Meta-World the code is all that can be compared."""
    tree = ast.parse(inspect.getsource(metaworld))
    code = [normalised(node) for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert {COLLECTOR: hashlib.sha256("".join(code).encode()).hexdigest()[:16]} == COLLECTORS


def test_views_into_the_simulator_are_no_state_of_a_task():
    positions, others = np.zeros((3, 4)), np.zeros(4)
    attributes = {
        "row": positions[1],
        "column": positions[:, 2],
        "inside": {"deep": [1, (positions[0],)]},
        "of_another": others[1:],
        "copied": positions[1].copy(),
        "plain": {"deep": [1, None, "text", np.float64(2)]},
        "model": object(),
    }
    assert list(own_state(attributes, [positions])) == ["of_another", "copied", "plain"]
    assert list(own_state(attributes, [positions, others])) == ["copied", "plain"]


def test_every_task_continues_bit_for_bit_after_a_restore():
    """Twice restored after 20 steps, half of them random: the rewards and observations of going on."""
    pytest.importorskip("metaworld")
    from metaworld.policies import ENV_POLICY_MAP

    def ahead(arm):
        steps = [arm.step(arm.expert_action())[:2] for _ in range(40)]
        return np.stack([seen for seen, _ in steps]), np.array([reward for _, reward in steps])

    other = []
    for task in sorted(ENV_POLICY_MAP):
        arm, generator = Arm(task), np.random.default_rng(0)
        arm.reset(seed=3)
        for i in range(20):
            arm.step(generator.uniform(-1, 1, 4) if i % 2 else arm.expert_action())
        state = arm.snapshot()
        seen, rewards = ahead(arm)
        for _ in range(2):
            arm.restore(state)
            seen_again, rewards_again = ahead(arm)
            if not (np.array_equal(seen, seen_again) and np.array_equal(rewards, rewards_again)):
                other.append(f"{task}: {rewards.sum():.4f} continued, {rewards_again.sum():.4f} restored")
        arm.close()
    assert not other
    assert len(ENV_POLICY_MAP) == 50


def test_values_split_where_they_should():
    """V_40 = the reward of 15 steps + V_25 from there; resets are drawn by their seed."""
    pytest.importorskip("metaworld")
    arm = Arm(TASK)
    first, _ = arm.reset(seed=3)
    other, _ = arm.reset(seed=4)
    again, _ = arm.reset(seed=3)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (35,)
    assert np.abs(first - other).max() > 1e-3
    state = arm.snapshot()
    earned = arm.expert_return(state, 40)
    arm.restore(state)
    before = sum(arm.step(arm.expert_action())[1] for _ in range(15))
    assert before + arm.expert_return(arm.snapshot(), 25) == pytest.approx(earned, rel=1e-12)
    arm.reset(seed=4)
    with pytest.raises(ValueError, match="snapshot is of episode 3, and this is episode 4"):
        arm.restore(state)


def test_what_a_later_step_adds_is_taken_away():
    pytest.importorskip("metaworld")
    arm = Arm(TASK)
    arm.reset(seed=3)
    state = arm.snapshot()
    arm._env.added = 1.0
    arm.restore(state)
    assert not hasattr(arm._env, "added")


def test_segments_have_their_shapes():
    pytest.importorskip("metaworld")
    found = scored_segments(task="drawer-open-v3", episodes=2, steps=8, horizon=40, seed=1)
    assert found.observations.shape == (4, 8, 35)
    assert found.actions.shape == (4, 8, 4)
    np.testing.assert_array_equal(found.episodes, [0, 0, 1, 1])
    assert np.isfinite(found.scores).all()
    assert (found.returns > 0).all()
    assert set(simulator_versions()) == {"metaworld", "mujoco"}
    with pytest.raises(ValueError, match="Meta-World has no 'sweep-in'; its tasks are"):
        scored_segments(task="sweep-in", episodes=1)
