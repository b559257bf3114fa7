"""The delivery domain: a grid with a destination, sheep, coins, roadblocks, houses and mud.

After Knox et al. 2022, arXiv:2206.02231; what a cell does is as in the released code. The boards here are
ours.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxpref.planning import TabularMDP, World

__all__ = ["ACTIONS", "BOARD", "FEATURES", "WEIGHTS", "delivery", "random_delivery", "varied_delivery"]

ACTIONS = ((-1, 0), (1, 0), (0, -1), (0, 1))  # (rows, columns): up, down, left, right
FEATURES = ("gas", "goal", "sheep", "coin", "roadblock", "mud")
WEIGHTS = (-1.0, 50.0, -50.0, 1.0, -1.0, -2.0)  # of the features
_GOAL, _HOUSE, _SHEEP, _COIN, _ROADBLOCK, _MUD = range(1, 7)

# A board of ours, one hexadecimal digit a cell. 0 blank, 1 goal, 2 house, 3 sheep, 4 coin, 5 roadblock; 6
# more where the ground is mud.
BOARD = (
    "0000020000",
    "0440020010",
    "0002020300",
    "6662000300",
    "6a62055500",
    "6662300000",
    "0002300240",
    "0500000200",
    "0503366200",
    "0000066000",
)


def delivery(
    *, board: Sequence[str] | ArrayLike = BOARD, weights: ArrayLike = WEIGHTS, discount: float = 0.999
) -> World:
    """The world of a board. States are cells, row by row; actions are up, down, left, right.

    The reward of a move depends on the cell it enters: a goal or a sheep (both end the episode) counts alone;
    any other cell costs gas, or mud instead where it is muddy, and a coin (which stays there) or a roadblock
    adds to that. A move off the board or into a house stays where it is and costs gas, or mud. Houses are
    never entered and count as terminal. Episodes start in any other cell, uniformly.

    Args:
      board: codes 0 to 11, [rows, columns], or rows of hexadecimal digits.
      weights: of `FEATURES` (released: gas -1, goal 50, sheep -50, coin 1, roadblock -1, mud -2).
      discount: in (0, 1] (released code: 0.999). Only below 1 are values finite whatever the weights.

    Raises:
      ValueError: an unknown code, no cell to start in, or, at discount 1, a cell from which no episode ends.
    """
    cells = _codes(board)
    given = np.asarray(weights, np.float64)
    if given.shape != (len(FEATURES),):
        raise ValueError(f"delivery.weights: expected one for each of {FEATURES}, got shape {given.shape}")
    if not 0 < discount <= 1:
        raise ValueError(f"delivery.discount: expected a number in (0, 1], got {discount}")
    kind = (cells % _MUD).reshape(-1)
    closed = (kind == _GOAL) | (kind == _SHEEP) | (kind == _HOUSE)
    if closed.all():
        raise ValueError("delivery.board: every cell is a goal, a sheep or a house; leave one to start in")
    successors = _successors(cells)
    if discount == 1:
        stuck = np.flatnonzero(~closed & ~_reaches(successors, closed))
        if stuck.size:
            cell = divmod(int(stuck[0]), cells.shape[1])
            raise ValueError(f"delivery.board: no episode from cell {cell} ends; set discount below 1")
    features = _features(cells, successors)
    states, start = len(kind), ~closed / (~closed).sum()
    floats = jnp.result_type(float)
    mdp = TabularMDP(
        jnp.asarray(np.eye(states)[successors], floats),
        jnp.asarray(np.where(closed[:, None], 0, features @ given), floats),
        jnp.asarray(closed),
        discount,
    )
    return World(
        mdp,
        jnp.asarray(features, floats),
        jnp.asarray(given, floats),
        jnp.asarray(start, floats),
        cells.shape,
    )


def random_delivery(
    *,
    seed: int,
    rows: int = 10,
    columns: int = 10,
    sheep: float = 0.1,
    coins: float = 0.1,
    roadblocks: float = 0.1,
    houses: float = 0.0,
    mud: float = 0.0,
    weights: ArrayLike = WEIGHTS,
    discount: float = 0.999,
) -> World:
    """A random board with one goal and the given shares of cells, drawn until every start reaches the goal.

    Raises:
      ValueError: shares that leave no cell, or no such board in 1,000 draws.
    """
    generator, count = np.random.default_rng(seed), rows * columns
    shares = {_SHEEP: sheep, _COIN: coins, _ROADBLOCK: roadblocks, _HOUSE: houses}
    numbers = {code: int(share * count) for code, share in shares.items()}
    if min(*shares.values(), mud) < 0 or sum(numbers.values()) > count - 2 or mud > 1:
        raise ValueError(
            f"random_delivery: shares of sheep, coins, roadblocks and houses {list(shares.values())} do not "
            f"fit into {count} cells beside the goal and a start"
        )
    contents = np.zeros(count, np.int64)
    filled = np.concatenate([[_GOAL], *(np.full(n, code) for code, n in numbers.items())])
    contents[: len(filled)] = filled
    for _ in range(1000):
        board = generator.permutation(contents)
        board = board + _MUD * (generator.random(count) < mud)
        cells = board.reshape(rows, columns)
        kind = board % _MUD
        closed = np.isin(kind, (_GOAL, _SHEEP, _HOUSE))
        if (closed | _reaches(_successors(cells), kind == _GOAL, through=~closed)).all():
            return delivery(board=cells, weights=weights, discount=discount)
    raise ValueError(
        "random_delivery: no board whose cells all reach the goal in 1,000 draws; use fewer sheep"
    )


def varied_delivery(*, seed: int, discount: float = 0.999) -> World:
    """A board and weights drawn as in the released generator of arXiv:2310.02456.

    Rows 3, 6, 10 or 15 and columns 5, 6 or 10; shares of sheep 0, 0.1 or 0.3, of roadblocks 0, 0.1, 0.5 or
    0.8, of coins 0, 0.1 or 0.2; goal 0, 1, 5, 10 or 50, sheep -5, -10, -50 or -100, roadblock -2, -5 or -10,
    coin 1, no mud.

    *Differs from* it: shares are drawn again until they fit, and boards until every start reaches the goal.
    """
    draw = np.random.default_rng(seed).choice
    share, roadblocks, coins = 1.0, 1.0, 1.0
    while share + roadblocks + coins > 0.9:
        share, roadblocks, coins = (
            float(draw(options)) for options in ([0, 0.1, 0.3], [0, 0.1, 0.5, 0.8], [0, 0.1, 0.2])
        )
    goal, sheep, bad = draw([0, 1, 5, 10, 50]), draw([-5, -10, -50, -100]), draw([-2, -5, -10])
    size = {"rows": int(draw([3, 6, 10, 15])), "columns": int(draw([5, 6, 10]))}
    return random_delivery(
        seed=seed,
        sheep=share,
        roadblocks=roadblocks,
        coins=coins,
        weights=(-1.0, goal, sheep, 1.0, bad, -2.0),
        discount=discount,
        **size,
    )


def _codes(board: Sequence[str] | ArrayLike) -> NDArray[np.int64]:
    rows = [row for row in board if isinstance(row, str)] if isinstance(board, Sequence) else []
    if rows:
        if len({len(row) for row in rows}) != 1:
            raise ValueError(f"delivery.board: rows are {sorted({len(row) for row in rows})} cells long")
        board = [[int(code, 16) for code in row] for row in rows]
    cells = np.asarray(board)
    if cells.ndim != 2 or not np.isin(cells, range(12)).all():
        odd = cells[~np.isin(cells, range(12))][:1] if cells.ndim == 2 else cells.shape
        raise ValueError(f"delivery.board: expected codes 0 to 11 [rows, columns], got {odd}")
    return cells.astype(np.int64)


def _successors(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """The cell that each action leads to, [s, a]; terminal cells and houses lead to themselves."""
    rows, columns = cells.shape
    r, c = np.indices(cells.shape)
    kind, stays = cells % _MUD, np.isin(cells % _MUD, (_GOAL, _SHEEP, _HOUSE))
    after = []
    for down, right in ACTIONS:
        to_r, to_c = r + down, c + right
        inside = (to_r >= 0) & (to_r < rows) & (to_c >= 0) & (to_c < columns)
        clear = inside & (kind[np.where(inside, to_r, 0), np.where(inside, to_c, 0)] != _HOUSE) & ~stays
        after.append(np.where(clear, to_r * columns + to_c, r * columns + c).reshape(-1))
    return np.stack(after, -1)


def _features(cells: NDArray[np.int64], successors: NDArray[np.int64]) -> NDArray[np.float64]:
    """[s, a, m], in the order of `FEATURES`."""
    kind, muddy = (cells % _MUD).reshape(-1), (cells >= _MUD).reshape(-1)
    ground = np.stack([~muddy, muddy], -1)
    of_cell = np.zeros((len(kind), len(FEATURES)))
    ends = (kind == _GOAL) | (kind == _SHEEP)
    of_cell[:, [0, 5]] = ground & ~ends[:, None]
    for code, place in ((_GOAL, 1), (_SHEEP, 2), (_COIN, 3), (_ROADBLOCK, 4)):
        of_cell[:, place] = kind == code
    moved = successors != np.arange(len(kind))[:, None]
    stayed = np.zeros_like(of_cell)
    stayed[:, [0, 5]] = ground
    features = np.where(moved[..., None], of_cell[successors], stayed[:, None])
    return np.where((ends | (kind == _HOUSE))[:, None, None], 0, features)


def _reaches(
    successors: NDArray[np.int64], targets: NDArray[np.bool_], through: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Cells from which some moves lead to a target, through cells of `through`."""
    reached = targets.copy()
    for _ in range(len(targets)):
        wider = reached | (reached[successors].any(-1) & (True if through is None else through))
        if (wider == reached).all():
            break
        reached = wider
    return reached
