"""Contrastive preference learning where everything is compiled: thousands of segments, one program.

gymnax's pendulum is to be swung up and balanced. 4,096 segments of 32 steps mix a scripted expert with noise
and random torques; each is scored by its regret, exactly: states are arrays, so the expert simply takes over
at either end. The controller imitates all segments, then learns from every comparison within a batch (128
segments, 8,128 pairs). `sft_preferred` imitates the better half instead, and `preference_reward` learns a
reward from pairs that are asked once and improves the controller on it. Shapes are fixed and nothing runs on
the host, so the same file fills a TPU: `num_segments` and `batch_size` are all there is to raise.

Paper     Hejna et al. (2023), arXiv:2310.13639 (CPL, dense comparisons).
Run       jaxpref train experiments/cpl_gymnax.py     (pip install gymnax six)
Change    num_segments=65536 batch_size=1024 bias=0.5 alpha=0.1 seed=1
Ablation  jaxpref sweep experiments/cpl_gymnax.py:sweep_methods
Try       jaxpref train experiments/cpl_gymnax.py num_segments=64 --smoke
Cost      25 to 45 CPU seconds each.
Measured  2026-11-21; random keys have been derived differently since then (DESIGN.md, 58), so seeds give
          other numbers.
Expect    Mean return of 256 episodes of 200 steps, mean of five seeds [95 % t interval over seeds]; from the
          same starts the expert earns -153.
            imitation of all segments          -636 [-703, -570]
            then of the better half            -382 [-438, -327]
            CPL, bias 0.5                      -228 [-280, -177]
            CPL, bias 1                        -701 [-1285, -117]
            P-IQL on single comparisons        -462 [-509, -415]
          On every seed CPL with bias is ahead of imitation of the better half (by 129 to 218) and of P-IQL.
          Without the bias it forgets the data: -181 on one seed, ahead of all others, and -1221 on another.
          Settings were not searched.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from _control import imitation_then, preferences

from jaxpref import losses
from jaxpref.algorithms import preference_iql, sft
from jaxpref.algorithms.optimizers import adamw, warmup_constant
from jaxpref.data import SegmentRecords
from jaxpref.data.behaviour.scored_segments import better_half, one_off_pairs
from jaxpref.environments.gymnax import gymnax_pendulum
from jaxpref.environments.rollouts import regret_segments
from jaxpref.evals import compiled_returns
from jaxpref.experiment import Experiment

STEPS = 32


def segments(*, num_segments: int, seed: int = 0) -> SegmentRecords:
    """One segment a row, with the column `scores` (minus its regret)."""
    scored = regret_segments(gymnax_pendulum(), jax.random.key(seed), num=num_segments, steps=STEPS)
    scored = jax.tree.map(np.asarray, scored)
    return SegmentRecords(
        scored.observations[:, None],
        scored.actions[:, None],
        np.full((num_segments, 1), STEPS, np.int64),
        columns={"scores": scored.scores[:, None]},
    )


def better(*, num_segments: int, seed: int = 0) -> SegmentRecords:
    """The better half."""
    return better_half(segments(num_segments=num_segments, seed=seed))


def pairs(*, num_segments: int, seed: int = 0) -> SegmentRecords:
    """Four comparisons to a segment."""
    return one_off_pairs(segments(num_segments=num_segments, seed=seed), seed=seed)


def optimizer(*, learning_rate: float = 1e-3):
    """Adam with a short warm-up, from its beginning in each stage."""
    return adamw(schedule=partial(warmup_constant, peak=learning_rate, warmup_steps=50), clip_norm=None)


def _learn(
    name: str,
    algorithm: Callable[..., Any],
    train: Callable[..., Any],
    /,
    *,
    num_segments: int = 4096,
    batch_size: int = 128,
    bc_steps: int = 1000,
    num_steps: int = 1000,
    seed: int = 0,
) -> Experiment:
    returns = partial(compiled_returns, world=gymnax_pendulum, name="pendulum")
    data = {"num_segments": num_segments, "seed": seed}
    return imitation_then(
        algorithm,
        name=f"{name}_seed_{seed}",
        stage_name="comparisons",
        optimizer=optimizer,
        observation_size=3,
        action_size=1,
        width=64,
        evaluator=returns,
        imitated=partial(segments, **data),
        train=partial(train, **data),
        steps=STEPS,
        bc_batch_size=batch_size,
        batch_size=batch_size,
        bc_steps=bc_steps,
        num_steps=num_steps,
        evaluate_every=100,
        log_every=250,
        seed=seed,
    )


def experiment(
    *,
    alpha: float = 0.1,
    bias: float = 0.5,
    num_segments: int = 4096,
    batch_size: int = 128,
    bc_steps: int = 1000,
    num_steps: int = 1000,
    seed: int = 0,
) -> Experiment:
    """All comparisons within each batch."""
    return _learn(
        f"cpl_gymnax_bias_{bias:g}",
        preferences(partial(losses.cpl_rank, alpha=alpha, bias=bias), optimizer),
        segments,
        num_segments=num_segments,
        batch_size=batch_size,
        bc_steps=bc_steps,
        num_steps=num_steps,
        seed=seed,
    )


def preference_reward(
    *,
    num_segments: int = 4096,
    batch_size: int = 64,
    bc_steps: int = 1000,
    reward_steps: int = 500,
    num_steps: int = 1500,
    seed: int = 0,
) -> Experiment:
    """Pairs that are asked once, a reward learnt from them, then implicit Q-learning on it (P-IQL)."""
    return _learn(
        "p_iql_gymnax",
        partial(
            preference_iql,
            optimizer=optimizer,
            observation_size=3,
            action_size=1,
            hidden=(64, 64),
            reward_steps=reward_steps,
        ),
        pairs,
        num_segments=num_segments,
        batch_size=batch_size,
        bc_steps=bc_steps,
        num_steps=num_steps,
        seed=seed,
    )


# Imitation of the better half.
sft_preferred = partial(_learn, "sft_gymnax", partial(sft, optimizer=optimizer), better)


def sweep_methods(*, seeds: int = 5) -> list[Experiment]:
    """Imitation of the better half, a learnt reward, CPL, CPL without its bias, from each of the seeds."""
    built = []
    for seed in range(seeds):
        built += [sft_preferred(seed=seed), preference_reward(seed=seed)]
        built += [experiment(seed=seed), experiment(seed=seed, bias=1.0)]
    return built
