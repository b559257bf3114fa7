"""Human comparisons of segments in the delivery domain, from a directory in the public format.

The data are those of "Influencing Human Preferences to Conform to Different Preference Models"
(github.com/Stephanehk/InfluencingHumanPrefs): people compared pairs of three-step segments on one board,
under nine conditions. They carry no licence, so they are not shipped: users download them.
"""

import io
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxpref.data.behaviour.simulated import preferred_first
from jaxpref.data.segments import SegmentRecords
from jaxpref.planning import World

__all__ = ["CONDITIONS", "delivery_board", "human_delivery", "write_human_delivery"]

# Steered towards partial return, towards regret, or not at all, by what people were shown, asked or taught.
CONDITIONS = (
    "Privileged-Control",
    "Question-Control",
    "Trained-Control",
    "Pr-Privileged",
    "Pr-Question",
    "Pr-Trained",
    "Regret-Privileged",
    "Regret-Question",
    "Regret-Trained",
)
_MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # (rows, columns), in the order of the world's actions
_HOME = "https://github.com/Stephanehk/InfluencingHumanPrefs (folder data)"


def delivery_board(data_root: str) -> NDArray[np.int64]:
    """Cell codes `[rows, columns]` of the board that people saw (`environments.delivery` reads them).

    From `delivery_mdp/board.npy`, or else from the public `delivery_mdp/delivery_env.pickle`, of which only
    plain data and numpy arrays are loaded: nothing in it is run.

    Raises:
      ValueError: neither is there, or the pickle asks for anything else or has no board.
    """
    folder = Path(data_root) / "delivery_mdp"
    if (folder / "board.npy").is_file():
        return _cells(folder / "board.npy", _array(folder / "board.npy"))
    path = folder / "delivery_env.pickle"
    if not path.is_file():
        raise ValueError(f"no board: expected {folder}/board.npy or {path.name}; get it from {_HOME}")
    try:
        pickled = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
        board = np.asarray(vars(pickled)["board"])
    except (pickle.UnpicklingError, EOFError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no board could be read ({error}); save it as board.npy") from error
    return _cells(path, board)


def human_delivery(
    *,
    data_root: str,
    world: Callable[[], World],
    conditions: Sequence[str] = CONDITIONS,
    part: tuple[float, float] = (0.0, 1.0),
) -> SegmentRecords:
    """Pairs of segments `[n, 2, 3]` of states and actions; the preferred segment is the first, ties are 0.5.

    `human_data/COND_full_filtered_Y.npy` [n] holds 0, 0.5 or 1 (the *second* one is preferred), `_X.npy`
    [n, 3] the differences, second minus first, of the partial return and of the values of the first and last
    state, and `_segment_pairs.npy` [n, 2, 4, 2] the start and three moves (rows, columns), (0, 0) once the
    episode is over. `group` is the pair of segments, so that `split` never parts judgements of one pair.

    Args:
      data_root: holds `human_data` and `delivery_mdp`.
      world: the delivery domain of `delivery_board(data_root)` with the true weights. The partial returns in
        it must be those of the files.
      conditions: names of `CONDITIONS`.
      part: the share of groups to return, (from, to) in [0, 1], in a fixed random order; (0, 0.8) and
        (0.8, 1) do not overlap.

    Raises:
      ValueError: a file is missing or damaged, or does not fit the world.
    """
    unknown = [c for c in conditions if c not in CONDITIONS]
    if unknown or not conditions:
        raise ValueError(f"human_delivery: no condition {unknown}; there are {', '.join(CONDITIONS)}")
    if not 0 <= part[0] < part[1] <= 1:
        raise ValueError(f"human_delivery.part: expected (from, to) within [0, 1], got {part}")
    folder, built = Path(data_root) / "human_data", world()
    labels, pairs = zip(*(_judgements(folder, condition, built) for condition in conditions), strict=True)
    moves = np.concatenate(pairs)
    states, actions, steps = _walked("segment_pairs", built, moves)
    _, group = np.unique(moves.reshape(len(moves), -1), axis=0, return_inverse=True)
    group = np.asarray(group).reshape(-1)
    records = SegmentRecords.pairs(
        states,
        actions,
        np.concatenate(labels),
        steps,
        group=group,
        columns={"annotators": np.repeat(np.arange(len(labels)), [len(y) for y in labels])},
        metadata={"source": "human_delivery", "conditions": list(conditions)},
    )
    order = np.random.default_rng(0).permutation(group.max() + 1)
    place = order[group] / len(order)
    return preferred_first(records.take((part[0] <= place) & (place < part[1])))


def write_human_delivery(
    data_root: str, condition: str, *, world: World, board: Any, records: SegmentRecords, values: Any
) -> None:
    """Writes pairs of three steps as files in the public format: for tests, and to try an experiment.

    Args:
      values: value of each state `[s]`, for `_X.npy`.
    """
    human, mdp = Path(data_root) / "human_data", Path(data_root) / "delivery_mdp"
    human.mkdir(parents=True, exist_ok=True)
    mdp.mkdir(parents=True, exist_ok=True)
    np.save(mdp / "board.npy", np.asarray(board, np.int64))
    n, columns = len(records), world.shape[1]
    real = np.arange(3) < records.step_lengths[..., None]
    moves = np.zeros((n, 2, 4, 2), np.int64)
    moves[:, :, 0] = np.stack(np.divmod(records.observations[:, :, 0], columns), -1)
    moves[:, :, 1:] = np.where(real[..., None], np.array(_MOVES)[records.actions], 0)
    following = np.asarray(world.mdp.transitions).argmax(-1)
    last = records.step_lengths[..., None] - 1
    ends = np.take_along_axis(following[records.observations, records.actions], last, -1)[..., 0]
    v = np.asarray(values, np.float64)
    statistics = np.stack(
        [
            _returns(world, records.observations, records.actions, real),
            v[records.observations[:, :, 0]],
            v[ends],
        ],
        -1,
    )
    assert records.preferences is not None
    np.save(human / f"{condition}_full_filtered_Y.npy", records.preferences[:, 1, 0].astype(np.float64))
    np.save(human / f"{condition}_full_filtered_X.npy", statistics[:, 1] - statistics[:, 0])
    np.save(human / f"{condition}_full_filtered_segment_pairs.npy", moves)


_NUMPY = {  # what pickles of arrays and numbers ask for, whatever module numpy had it in
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "_reconstruct": np.zeros(1).__reduce__()[0],
    "scalar": np.float64(0).__reduce__()[0],
}


class _Plain:
    """Replaces the released environment's class: attributes without code."""


class _PlainUnpickler(pickle.Unpickler):
    """Loads numpy arrays and plain data; any class of the released package becomes `_Plain`."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in _NUMPY:
            return _NUMPY[name]
        if name == "GridWorldEnv":
            return _Plain
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not loaded")


def _judgements(folder: Path, condition: str, world: World) -> tuple[np.ndarray, np.ndarray]:
    """Labels [n] and moves [n, 2, 4, 2] of one condition, checked against the world."""
    paths = [folder / f"{condition}_full_filtered_{kind}.npy" for kind in ("Y", "X", "segment_pairs")]
    y, x, moves = (_array(path) for path in paths)
    if y.ndim != 1 or not len(y):
        raise ValueError(f"{paths[0]}: expected labels [n], one or more, got {y.shape}")
    for path, found, shape in ((paths[1], x, (len(y), 3)), (paths[2], moves, (len(y), 2, 4, 2))):
        if found.shape != shape:
            raise ValueError(
                f"{path}: expected {shape}, as {paths[0].name} has {len(y)} rows, got {found.shape}"
            )
    known = np.isin(y, (0, 0.5, 1))
    if not known.all():
        row = np.flatnonzero(~known)[0]
        raise ValueError(f"{paths[0]}: row {row}: label {y[row]} is not 0, 0.5 or 1")
    _check_returns(paths[2], world, _whole(paths[2], moves), x[:, 0])
    return y, moves


def _array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise ValueError(f"no file {path}; get it from {_HOME}")
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a readable .npy file of numbers ({error})") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iuf":
        kind = found.dtype if isinstance(found, np.ndarray) else "an archive (.npz)"
        raise ValueError(f"{path}: expected one array of numbers, got {kind}")
    return found


def _whole(path: Path, values: np.ndarray) -> np.ndarray:
    """The same as int64; raises ValueError that names the row of the first number that is not whole."""
    odd = np.argwhere(~np.isfinite(values) | (values != np.floor(values)))
    if len(odd):
        raise ValueError(f"{path}: row {odd[0][0]}: expected whole numbers, got {values[tuple(odd[0])]}")
    return values.astype(np.int64)


def _cells(path: Path, board: np.ndarray) -> NDArray[np.int64]:
    if board.ndim != 2 or board.dtype.kind not in "iuf":
        raise ValueError(
            f"{path}: expected a board of cell codes [rows, columns], got {board.dtype} {board.shape}"
        )
    return _whole(path, board)


def _walked(name: str, world: World, moves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States and actions `[n, 2, 3]` and numbers of steps, checked against the world."""
    rows, columns = world.shape
    starts = moves[:, :, 0]
    outside = ((starts < 0) | (starts >= (rows, columns))).any((1, 2))
    if outside.any():
        row = np.flatnonzero(outside)[0]
        raise ValueError(f"{name}: row {row} starts outside the board of {rows} x {columns} cells")
    known = (moves[:, :, 1:, None] == np.array(_MOVES)).all(-1)
    moved, still = known.any(-1), (moves[:, :, 1:] == 0).all(-1)
    if not (moved | still).all():
        row = np.argwhere(~(moved | still))[0][0]
        raise ValueError(f"{name}: row {row} has a move that is none of {_MOVES} or (0, 0)")
    actions = known.argmax(-1).astype(np.int32)
    following = np.asarray(world.mdp.transitions).argmax(-1)
    terminal = np.asarray(world.mdp.terminal)
    states = np.zeros(actions.shape, np.int32)
    at = (starts[..., 0] * columns + starts[..., 1]).astype(np.int32)
    for t in range(actions.shape[-1]):
        states[..., t] = at
        wrong = still[..., t] & ~terminal[at]
        if wrong.any():
            raise ValueError(f"{name}: row {np.argwhere(wrong)[0][0]} stands still before its episode ends")
        at = following[at, actions[..., t]]
    steps = (~terminal[states]).sum(-1)
    if (steps < 1).any():
        raise ValueError(f"{name}: row {np.argwhere(steps < 1)[0][0]} starts where its episode has ended")
    return states, actions, steps


def _returns(world: World, states: np.ndarray, actions: np.ndarray, real: np.ndarray) -> np.ndarray:
    return (np.asarray(world.mdp.rewards, np.float64)[states, actions] * real).sum(-1)


def _check_returns(path: Path, world: World, moves: np.ndarray, expected: np.ndarray) -> None:
    states, actions, steps = _walked(str(path), world, moves)
    returns = _returns(world, states, actions, np.arange(3) < steps[..., None])
    apart = ~(np.abs(returns[:, 1] - returns[:, 0] - expected) <= 1e-4)  # so that NaN is apart
    if apart.any():
        raise ValueError(
            f"{path}: the partial returns of {apart.sum()} of {len(apart)} pairs are not those of "
            f"_X.npy (row {np.flatnonzero(apart)[0]} first); is the board, or are the weights, of other data?"
        )
