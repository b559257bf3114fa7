"""Human preferences between segments of robots: the counts of the source, the order of a pair, bad files."""

import shutil

import numpy as np
import pytest

from jaxpref.data.behaviour import robot_preferences as module
from jaxpref.data.behaviour.robot_preferences import TASKS, robot_preferences

HOPPER = "hopper-medium-expert-v2_num100"
# Labels 0, 1/2 and 1 of the training files, as their source counts them.
COUNTS = {
    HOPPER: (32, 28, 40),
    "walker2d-medium-expert-v2_num100": (30, 24, 46),
    "Can_num100_q50": (24, 34, 42),
    "Lift_num100_q50": (35, 55, 10),
    "Square_num100_q50": (41, 28, 31),
}


@pytest.mark.parametrize("task", TASKS)
def test_counts_of_every_file(data_root, task):
    records = robot_preferences(data_root=str(data_root), task=task)
    first, ties, second = COUNTS[task]
    assert len(records) == 100
    assert records.columns["ties"].sum() == ties
    strict = robot_preferences(data_root=str(data_root), task=task, strict=True)
    assert len(strict) == first + second
    np.testing.assert_array_equal(strict.preferences[:, 0, 1], 1)
    assert len(robot_preferences(data_root=str(data_root), task=task, split="eval")) == 10


def test_the_preferred_segment_comes_first(data_root):
    records = robot_preferences(data_root=str(data_root / "robot_human_prefs"), task=HOPPER)
    with np.load(data_root / "robot_human_prefs" / f"{HOPPER}_human_train.npz") as file:
        raw = dict(file)
    for label, first, second in ((0, "1", "2"), (0.5, "1", "2"), (1, "2", "1")):
        row = np.flatnonzero(raw["label"] == label)[0]
        np.testing.assert_allclose(records.observations[row, 0], raw[f"obs_{first}"][row], rtol=1e-6)
        np.testing.assert_allclose(records.actions[row, 1], raw[f"action_{second}"][row], rtol=1e-6)
        assert records.preferences[row, 0, 1] == (0.5 if label == 0.5 else 1)
    np.testing.assert_array_equal(records.take([0]).rows([0]).lengths, [[100, 100]])


def test_bad_files_are_named(data_root, tmp_path, monkeypatch):
    read = {"data_root": str(tmp_path), "task": HOPPER}
    with pytest.raises(ValueError, match=r"has no hopper.*download it from https://github\.com"):
        robot_preferences(**read)
    with pytest.raises(ValueError, match="tasks are"):
        robot_preferences(data_root=str(tmp_path), task="hopper")
    name = f"{HOPPER}_human_train.npz"
    shutil.copyfile(data_root / "robot_human_prefs" / name, tmp_path / name)
    assert len(robot_preferences(**read)) == 100
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="checksum mismatch"):
        robot_preferences(**read)
    monkeypatch.setattr(module, "sha256_of", lambda path: TASKS[HOPPER][0])
    with pytest.raises(ValueError, match="does not hold pairs"):
        robot_preferences(**read)


def _set(name, place, value):
    def change(arrays):
        arrays[name] = arrays[name].astype(float)
        arrays[name][place] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("label", 3, 0.7), "row 3: label 0.7 is not 0, 0.5 or 1"),
        (_set("obs_2", (4, 1, 0), np.nan), "row 4: obs_2 has a number that is not finite"),
        (
            lambda arrays: arrays.update(label=arrays["label"][:, None]),
            r"labels \[n\], got .*label \(100, 1\)",
        ),
        (lambda arrays: arrays.update(label=arrays["label"][:-1]), r"labels \[n\], got .*label \(99,\)"),
        (lambda arrays: arrays.update(action_2=arrays["action_2"][:-1]), "does not hold pairs"),
        (lambda arrays: arrays.pop("obs_1"), "does not hold pairs .*obs_1"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(data_root, tmp_path, monkeypatch, change, message):
    with np.load(data_root / "robot_human_prefs" / f"{HOPPER}_human_train.npz") as file:
        arrays = dict(file)
    change(arrays)
    path = tmp_path / f"{HOPPER}_human_train.npz"
    np.savez(path, **arrays)
    monkeypatch.setattr(module, "sha256_of", lambda path: TASKS[HOPPER][0])
    with pytest.raises(ValueError, match=message) as error:
        robot_preferences(data_root=str(tmp_path), task=HOPPER)
    assert str(path) in str(error.value)
