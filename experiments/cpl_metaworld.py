"""Contrastive preference learning on simulated robot arms, from comparisons by regret.

Segments of 64 steps come from scripted experts with noise and random actions mixed in. They are compared by
regret, which needs no trained critic here: the state at either end of a segment is restored, and the expert
shows what it would have earned from there. The controller first imitates every segment, then learns from all
comparisons between the segments of a batch (`cpl_rank`), or from pairs that are asked once (`cpl_pairs`).
`sft_preferred` imitates the better half instead, and `preference_reward` learns a reward from the same pairs
and improves the controller on it (implicit Q-learning).

Paper     Hejna et al. (2023), arXiv:2310.13639 (CPL). There: segments of trained agents (SAC), 2,500 to
          20,000 of them, labels by their critics, and 500,000 steps: not to be compared with that table.
Run       jaxpref train experiments/cpl_metaworld.py     (pip install 'jaxpref[control]' metaworld)
Change    task=drawer-open-v3 episodes=500 bias=0.5 alpha=0.1 width=256 seed=1
          (any of Meta-World's 50 tasks)
Ablation  jaxpref sweep experiments/cpl_metaworld.py:sweep_tasks
Try       jaxpref train experiments/cpl_metaworld.py episodes=10 --smoke
Cost      0.2 seconds of one idle core a segment to collect (once, then kept), then about a minute of one idle
          core a run; the 12 runs of the ablation took 66 minutes at a load of 5 to 13 from other work.
Expect    One seed, 400 segments a task, means [95 % intervals] of 20 episodes of 250 steps: return, and share
          of episodes with a success.
                                 drawer-open            button-press          plate-slide
            imitation of all     989 [845, 1134]   0.65   191 [189, 193] 1.00   1177 [981, 1372]  0.70
            of the better half   1603 [1591, 1614] 1.00   237 [236, 238] 1.00   1477 [1192, 1761] 0.70
            CPL, all pairs       1584 [1472, 1696] 0.95   232 [231, 234] 1.00   1313 [987, 1639]  0.55
            CPL-BC, single pairs 1531 [1526, 1537] 1.00   206 [204, 208] 1.00   1360 [1123, 1597] 0.70
            P-IQL, same pairs    1497 [1406, 1587] 0.95   223 [223, 224] 1.00   1356 [1121, 1592] 0.70
          Another draw of the same data moves these by more than the intervals, which are over episodes: with
          states that were restored to rounding only, hence other segments, drawer-open had 509, 1596, 1588,
          528 and 715.
          Shares are of 20, so 0.40 is [0.22, 0.61] and 1.00 [0.84, 1]. All four are ahead of imitation of
          all in all tasks, though not always by more than the intervals. CPL is not told from imitation of
          the better half in two tasks and is behind it in one: with a score for every segment of partly
          scripted behaviour, the better half is good behaviour. The paper has CPL ahead of it, on other
          data. CPL-BC sees four comparisons to a segment, and its term of imitation holds it to the worse
          half too. Settings were not searched.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from _control import imitation_then, preferences

from jaxpref import losses
from jaxpref.algorithms import preference_iql, sft
from jaxpref.algorithms.optimizers import adamw, warmup_constant
from jaxpref.data import SegmentRecords
from jaxpref.data.behaviour.scored_segments import better_half, one_off_pairs
from jaxpref.data.cache import cached_segments
from jaxpref.environments.metaworld import COLLECTOR, arm_world, scored_segments, simulator_versions
from jaxpref.evals import control_returns
from jaxpref.experiment import Experiment

STEPS, HORIZON = 64, 150


def segments(*, task: str, episodes: int, seed: int = 0) -> SegmentRecords:
    """Every segment, one a row, with the column `scores` (minus its regret). Collected once, then kept."""
    return cached_segments(
        f"metaworld-{task}",
        partial(_collected, task=task, episodes=episodes, seed=seed),
        versions=simulator_versions() | {"collector": str(COLLECTOR)},
    )


def _collected(*, task: str, episodes: int, seed: int) -> SegmentRecords:
    scored = scored_segments(task=task, episodes=episodes, steps=STEPS, horizon=HORIZON, seed=seed)
    lengths = np.full((len(scored.scores), 1), STEPS, np.int64)
    return SegmentRecords(
        scored.observations[:, None],
        scored.actions[:, None],
        lengths,
        group=scored.episodes,
        columns={"scores": scored.scores[:, None].astype(np.float32)},
    )


def better(*, task: str, episodes: int, seed: int = 0) -> SegmentRecords:
    """The better half."""
    return better_half(segments(task=task, episodes=episodes, seed=seed))


def pairs(*, task: str, episodes: int, seed: int = 0) -> SegmentRecords:
    """Four comparisons to a segment."""
    return one_off_pairs(segments(task=task, episodes=episodes, seed=seed), seed=seed)


def optimizer(*, learning_rate: float = 3e-4):
    """Adam with a short warm-up, from its beginning in each stage."""
    return adamw(schedule=partial(warmup_constant, peak=learning_rate, warmup_steps=50), clip_norm=None)


def _learn(
    name: str,
    algorithm: Callable[..., Any],
    train: Callable[..., Any],
    batch_size: int = 32,
    /,
    *,
    task: str = "drawer-open-v3",
    episodes: int = 200,
    width: int = 128,
    bc_steps: int = 1000,
    num_steps: int = 500,
    seed: int = 0,
) -> Experiment:
    episodes_of_task = partial(
        control_returns, world=partial(arm_world, task=task), episodes=20, max_steps=250, name=task
    )
    data = {"task": task, "episodes": episodes, "seed": seed}
    return imitation_then(
        algorithm,
        name=f"{name}_{task}_seed_{seed}",
        stage_name="comparisons",
        optimizer=optimizer,
        observation_size=35,
        action_size=4,
        width=width,
        evaluator=episodes_of_task,
        imitated=partial(segments, **data),
        train=partial(train, **data),
        steps=STEPS,
        bc_batch_size=32,
        batch_size=batch_size,
        bc_steps=bc_steps,
        num_steps=num_steps,
        evaluate_every=500,
        log_every=250,
        seed=seed,
    )


def experiment(
    *,
    task: str = "drawer-open-v3",
    episodes: int = 200,
    alpha: float = 0.1,
    bias: float = 0.5,
    width: int = 128,
    bc_steps: int = 1000,
    num_steps: int = 500,
    seed: int = 0,
) -> Experiment:
    """All comparisons within each batch."""
    return _learn(
        "cpl_rank",
        preferences(partial(losses.cpl_rank, alpha=alpha, bias=bias), optimizer),
        segments,
        32,
        task=task,
        episodes=episodes,
        width=width,
        bc_steps=bc_steps,
        num_steps=num_steps,
        seed=seed,
    )


def cpl_pairs(
    *,
    task: str = "drawer-open-v3",
    episodes: int = 200,
    alpha: float = 0.1,
    bc_weight: float = 1.0,
    width: int = 128,
    bc_steps: int = 1000,
    num_steps: int = 500,
    seed: int = 0,
) -> Experiment:
    """Pairs that are asked once, with imitation in the loss (CPL-BC)."""
    return _learn(
        "cpl_bc",
        preferences(partial(losses.cpl_bc, alpha=alpha, bc_weight=bc_weight), optimizer),
        pairs,
        16,
        task=task,
        episodes=episodes,
        width=width,
        bc_steps=bc_steps,
        num_steps=num_steps,
        seed=seed,
    )


def preference_reward(
    *,
    task: str = "drawer-open-v3",
    episodes: int = 200,
    width: int = 128,
    bc_steps: int = 1000,
    reward_steps: int = 250,
    num_steps: int = 750,
    seed: int = 0,
) -> Experiment:
    """The same pairs, a reward learnt from them first, then implicit Q-learning on that reward (P-IQL)."""
    return _learn(
        "p_iql",
        partial(
            preference_iql,
            optimizer=optimizer,
            observation_size=35,
            action_size=4,
            hidden=(width, width),
            reward_steps=reward_steps,
        ),
        pairs,
        16,
        task=task,
        episodes=episodes,
        width=width,
        bc_steps=bc_steps,
        num_steps=num_steps,
        seed=seed,
    )


# Imitation of the better half.
sft_preferred = partial(_learn, "sft", partial(sft, optimizer=optimizer), better)


def sweep_tasks(*, seed: int = 0) -> list[Experiment]:
    """Three tasks, four methods; imitation of everything is the end of the first stage of each."""
    tasks = ("drawer-open-v3", "button-press-v3", "plate-slide-v3")
    methods = (sft_preferred, experiment, cpl_pairs, preference_reward)
    return [build(task=task, seed=seed) for task in tasks for build in methods]
