"""Meta-World's robot arms: scripted experts, states that can be restored, and segments scored by regret."""

import copy
import importlib
import warnings
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "COLLECTOR",
    "Arm",
    "ScoredSegments",
    "arm_world",
    "own_state",
    "scored_segments",
    "simulator_versions",
]

COLLECTOR = 1  # version of `Arm` and `scored_segments`: raise it when what they collect changes


class Arm:
    """One task, with the interface of gymnasium's worlds and observations of 35 numbers.

    The observation is Meta-World's without entries 18 to 21, the hand of the frame before, as in the released
    code of arXiv:2310.13639. Object and goal are drawn by the seed of `reset`. An episode has at most 500
    steps.
    """

    def __init__(self, task: str) -> None:
        try:
            worlds = importlib.import_module("metaworld.env_dict").ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
            experts = importlib.import_module("metaworld.policies").ENV_POLICY_MAP
            self._mujoco = importlib.import_module("mujoco")
        except ImportError as error:
            raise ValueError(f"{task}: Meta-World is not installed; pip install metaworld") from error
        if task not in experts:
            raise ValueError(f"Meta-World has no {task!r}; its tasks are {sorted(experts)}")
        self._env = worlds[f"{task}-goal-observable"](seed=0)
        self._env.seeded_rand_vec = True
        self._expert = experts[task]()
        self._seen = np.zeros(39)
        self._episode = 0

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        self._env._freeze_rand_vec = False
        if seed is not None:
            self._env.seed(seed)
        self._episode += 1
        self._seen, _ = self._env.reset()
        return self._shown(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._seen, reward, terminated, truncated, info = self._env.step(np.clip(action, -1, 1))
        return self._shown(), float(reward), terminated, truncated, info

    def close(self) -> None:
        self._env.close()

    def expert_action(self) -> np.ndarray:
        """Of the scripted expert, in [-1, 1]^4."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "constants may be too high": they are clipped here
            return np.clip(self._expert.get_action(self._seen), -1, 1)

    def snapshot(self) -> Any:
        """The state, to come back to within the same episode."""
        kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(self._mujoco.mj_stateSize(self._env.model, kind))
        self._mujoco.mj_getState(self._env.model, self._env.data, physics, kind)
        return self._episode, physics, copy.deepcopy(self._own_state()), self._seen.copy()

    def restore(self, state: Any) -> None:
        """Back to a snapshot. What the simulator derives from its state is out of date until the next step.

        `mj_forward` would derive it now, but it moves the solver's warm start as well, and so the next step.

        Raises:
          ValueError: the snapshot is of another episode, whose object and goal are elsewhere.
        """
        episode, physics, own, seen = state
        if episode != self._episode:
            raise ValueError(
                f"arm: the snapshot is of episode {episode}, and this is episode {self._episode}; restore it "
                "before the next reset"
            )
        kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        self._mujoco.mj_setState(self._env.model, self._env.data, physics, kind)
        for added in self._own_state().keys() - own.keys():
            delattr(self._env, added)
        vars(self._env).update(copy.deepcopy(own))
        self._seen = seen.copy()

    def _own_state(self) -> dict[str, Any]:
        simulator = [
            array
            for owner in (self._env.data, self._env.model)
            for name in dir(owner)
            if isinstance(array := getattr(owner, name), np.ndarray)
        ]
        return own_state(vars(self._env), simulator)

    def expert_return(self, state: Any, steps: int) -> float:
        """What the expert earns in `steps` from a snapshot; the world is left where that ends."""
        self.restore(state)
        return sum(self.step(self.expert_action())[1] for _ in range(steps))

    def _shown(self) -> np.ndarray:
        return np.concatenate([self._seen[:18], self._seen[22:]])


def arm_world(*, task: str) -> Arm:
    """A world for evaluators."""
    return Arm(task)


def simulator_versions() -> dict[str, str]:
    """Of Meta-World and MuJoCo, which what is collected depends on: `{"metaworld": "3.1.1", ...}`.

    Raises:
      ValueError: one is not installed.
    """
    try:
        return {name: metadata.version(name) for name in ("metaworld", "mujoco")}
    except metadata.PackageNotFoundError as error:
        raise ValueError("Meta-World is not installed; pip install metaworld") from error


class ScoredSegments(NamedTuple):
    """`n` segments of behaviour, scored by an expert."""

    observations: np.ndarray  # [n, t, 35] float32
    actions: np.ndarray  # [n, t, 4] float32
    scores: np.ndarray  # [n]: minus the regret, in units of reward
    returns: np.ndarray  # [n]: the segment's own reward
    episodes: np.ndarray  # [n]


def scored_segments(
    *, task: str, episodes: int, steps: int = 64, per_episode: int = 2, horizon: int = 150, seed: int = 0
) -> ScoredSegments:
    """Segments of noisy behaviour, each scored by minus its regret under the scripted expert.

    score = (reward of the segment) + V_(horizon - steps)(its end) - V_horizon(its start), where V_m is what
    the expert earns in m steps from there, rolled out from the restored state: minus what is lost in
    `horizon` steps if the expert takes over only after the segment. Undiscounted. It may be above 0, since a
    scripted expert is not optimal.

    Differs from the released labels of arXiv:2310.13639, whose values are those of a trained critic.

    In each episode a share of steps drawn from [0, 1] is the expert's with normal noise (0.3), the others are
    uniform in [-1, 1]^4.

    Raises:
      ValueError: an unknown task, or the horizon ends within the segment.
    """
    if not steps < horizon or episodes * per_episode < 1 or steps * per_episode + horizon > 500:
        raise ValueError(
            "scored_segments: expected steps < horizon, at least one segment and episodes within 500 steps, "
            f"got steps={steps}, horizon={horizon}, episodes={episodes}, per_episode={per_episode}"
        )
    from tqdm import tqdm

    arm, generator = Arm(task), np.random.default_rng(seed)
    columns: dict[str, list] = {name: [] for name in ScoredSegments._fields}
    for episode in tqdm(range(episodes), f"{task}: segments", unit="episode", delay=5, mininterval=5):
        seen, _ = arm.reset(seed=int(generator.integers(2**31)))
        share = generator.random()
        for _ in range(per_episode):
            start = arm.snapshot()
            observations, actions, earned = [], [], 0.0
            for _ in range(steps):
                action = generator.uniform(-1, 1, 4)
                if generator.random() < share:
                    action = np.clip(arm.expert_action() + generator.normal(0, 0.3, 4), -1, 1)
                observations.append(seen)
                actions.append(action)
                seen, reward, *_ = arm.step(action)
                earned += reward
            end = arm.snapshot()
            regained = arm.expert_return(end, horizon - steps)
            scored = earned + regained - arm.expert_return(start, horizon)
            arm.restore(end)
            row = (np.stack(observations), np.stack(actions), scored, earned, episode)
            for name, value in zip(columns, row, strict=True):
                columns[name].append(value)
    arm.close()
    kinds = (np.float32, np.float32, np.float64, np.float64, np.int64)
    return ScoredSegments(*(np.asarray(v, kind) for v, kind in zip(columns.values(), kinds, strict=True)))


def own_state(attributes: dict[str, Any], simulator: Sequence[np.ndarray]) -> dict[str, Any]:
    """The attributes that a world keeps between steps: numbers, text, arrays and containers of them.

    Left out are arrays that share memory with the simulator's: they follow it by themselves, and a copy put
    in their place would stay at the values of its time.

    Example:
      >>> from jaxpref.environments.metaworld import own_state
      >>> positions = np.zeros((2, 3))
      >>> print(own_state({"steps": 1, "pad": positions[1], "model": object()}, [positions]))
      {'steps': 1}
    """
    return {name: value for name, value in attributes.items() if _own(value, simulator)}


def _own(value: Any, simulator: Sequence[np.ndarray]) -> bool:
    if isinstance(value, dict):
        return all(_own(v, simulator) for v in value.values())
    if isinstance(value, (list, tuple)):
        return all(_own(v, simulator) for v in value)
    if isinstance(value, np.ndarray):
        return not any(np.may_share_memory(value, array) for array in simulator)
    return value is None or isinstance(value, (bool, int, float, str, np.generic))
