"""Human preferences between segments of simulated robots, as shipped with Inverse Preference Learning."""

import zipfile
from pathlib import Path

import numpy as np

from jaxpref.data.segments import SegmentRecords
from jaxpref.data.sources import sha256_of

__all__ = ["TASKS", "robot_preferences"]

_HOME = "https://github.com/jhejna/inverse-preference-learning (datasets/preference_transformer)"

# sha256 of the public files, (train, eval).
TASKS = {
    "hopper-medium-expert-v2_num100": (
        "bc1a5e4d9390f573fd90b4f69a9b03b43976ac13e44cbda7a78fb281680ece65",
        "b0214548fe111fa37b87431316076d745b71145972c17bc2da605fe74cfa649e",
    ),
    "walker2d-medium-expert-v2_num100": (
        "61d7ebafc444a59e4f9585e3e582b0ea443912961567a87676b3be41a2900154",
        "65ad3013a776064c950e6d3dae32c9ce9fd45c00a95fd3b8310dba8ef81e98cb",
    ),
    "Can_num100_q50": (
        "86fd6bf89f2698385032f010981da8839c356a7f69b26398d89abf212fd40bdb",
        "920751645783945d9bd3304c21f1641a2834a1661e3dd6447dcfc608a5c26e7a",
    ),
    "Lift_num100_q50": (
        "c2057f9294fcbdf00c56cfe82f66cf3eb3bda91bef695f3da8d03fbf6e2d7565",
        "92dbc5d8a2601101efdcf81ef97afe8ad95ce2d0119f918ab5da8ef607ac893a",
    ),
    "Square_num100_q50": (
        "b2860a9f759d74720c17917a9a321f5a9c22e7ea1b0c10da0bc1e6e27ab2b7b2",
        "3b41da243366271f96a1b1399e9a722d2a88f1c97d691d0d8b59fde9ebe03399",
    ),
}


def robot_preferences(
    *, data_root: str, task: str, split: str = "train", strict: bool = False
) -> SegmentRecords:
    """Pairs of segments with a human's opinion, the preferred one first; ties are pairs with probability 1/2.

    100 pairs to train and 10 to evaluate in each task (label 0, 1/2 or 1: the second one is preferred); the
    labels of Preference Transformer (Kim et al. 2023), MIT licence. Hopper and Walker2d: 100 steps, Can, Lift
    and Square: 50. Column `ties [n]` is 1 where neither was preferred.

    Args:
      data_root: folder that holds `TASK_human_SPLIT.npz`, itself or in a folder `robot_human_prefs`.
      task: one of `TASKS`.
      split: "train" or "eval".
      strict: leave ties out.

    Raises:
      ValueError: unknown task or split, a missing file, a checksum that does not match, or a file that does
        not hold pairs.
    """
    if task not in TASKS or split not in ("train", "eval"):
        raise ValueError(
            f"robot preferences: no {task!r} {split!r}; tasks are {sorted(TASKS)}, train or eval"
        )
    path = _found(Path(data_root), f"{task}_human_{split}.npz")
    expected, actual = TASKS[task][split == "eval"], sha256_of(path)
    if actual != expected:
        raise ValueError(
            f"robot preferences: checksum mismatch: {path} has sha256 {actual[:16]}..., the public file "
            f"{expected[:16]}...; fetch it again from {_HOME}"
        )
    observations, actions, label = _read(path)
    second = label > 0.5
    order = np.where(second[:, None], [[1, 0]], [[0, 1]])
    rows = np.arange(len(label))[:, None]
    records = SegmentRecords.pairs(
        observations[rows, order].astype(np.float32),
        actions[rows, order].astype(np.float32),
        np.where(label == 0.5, 0.5, 0.0),
        columns={"ties": (label == 0.5).astype(np.int32)},
        metadata={"source": path.name},
    )
    return records.take(label != 0.5) if strict else records


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations and actions `[n, 2, t, ...]` and labels [n]; raises ValueError with file and row."""
    try:
        with open(path, "rb") as raw, np.load(raw) as file:
            observations, actions = (
                np.stack([file[f"{name}_1"], file[f"{name}_2"]], 1) for name in ("obs", "action")
            )
            label = file["label"]
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"robot preferences: {path} does not hold pairs ({error})") from error
    n = len(label) if label.ndim == 1 else 0
    if not n or any(a.ndim != 4 or len(a) != n or a.dtype.kind not in "iuf" for a in (observations, actions)):
        raise ValueError(
            f"robot preferences: {path}: expected numbers [n, steps, d] and labels [n], got obs "
            f"{observations[:, 0].shape}, action {actions[:, 0].shape} and label {label.shape}"
        )
    known = np.isin(label, (0, 0.5, 1))
    if not known.all():
        row = np.flatnonzero(~known)[0]
        raise ValueError(f"robot preferences: {path}: row {row}: label {label[row]} is not 0, 0.5 or 1")
    for name, values in (("obs", observations), ("action", actions)):
        odd = np.argwhere(~np.isfinite(values))
        if len(odd):
            row, j = odd[0][:2]
            raise ValueError(
                f"robot preferences: {path}: row {row}: {name}_{j + 1} has a number that is not finite"
            )
    return observations, actions, label


def _found(root: Path, name: str) -> Path:
    for path in (root / name, root / "robot_human_prefs" / name):
        if path.is_file():
            return path
    raise ValueError(f"robot preferences: {root} has no {name}; download it from {_HOME} and set data_root")
