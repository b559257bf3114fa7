"""Contrastive preference learning on a hundred real human opinions about a one-legged robot.

People looked at two stretches of a simulated Hopper (100 steps each) and said which one they preferred; 28 of
100 pairs are ties. The controller first imitates all 200 segments, then learns from the opinions: without a
reward model, without a simulator. The simulator (gymnasium's Hopper-v5) only measures, at the start and end
of each stage. `sft_preferred` imitates the preferred segments in place of the second stage, and `bc` all of
them for as long.

Paper     Hejna et al. (2023), arXiv:2310.13639 (CPL); labels of Preference Transformer, as shipped with
          Inverse Preference Learning (arXiv:2305.15363).
Run       jaxpref train experiments/cpl_hopper_human.py data_root=DIR     (pip install 'jaxpref[control]')
          DIR holds robot_human_prefs/hopper-medium-expert-v2_num100_human_{train,eval}.npz.
Change    alpha=0.1 bias=0.7 width=192 bc_steps=3000 num_steps=1500 seed=1
Ablation  jaxpref sweep experiments/cpl_hopper_human.py:sweep_methods data_root=DIR
Try       jaxpref train experiments/cpl_hopper_human.py data_root=DIR --smoke
Cost      about 35 CPU seconds each.
Measured  2026-11-21; random keys have been derived differently since then (DESIGN.md, 58), so seeds give
          other numbers.
Expect    D4RL's normalised return (0: random, 100: expert) of the last policy, mean of 5 seeds [95 % t
          interval over seeds], 10 episodes each. Imitation after 2,000 steps 17.7 [5.0, 30.5]; 1,000 steps
          later: imitation 22.1 [10.4, 33.9], imitation of the preferred 29.2 [21.3, 37.1], CPL with bias 0.7
          33.4 [27.9, 38.9], CPL-BC 20.8 [9.2, 32.4]. By seed, CPL is ahead of imitation by 11.2 [3.8, 18.7]
          and of imitation of the preferred by 4.2 [0.1, 8.3]; no other two methods are told apart. Sizes
          were chosen for the CPU, settings were not searched, and returns jump from step to step.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from _control import imitation_then, preferences

from jaxpref import losses
from jaxpref.algorithms import sft
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data.behaviour.robot_preferences import robot_preferences
from jaxpref.environments.gymnasium import gymnasium_world
from jaxpref.evals import control_returns
from jaxpref.experiment import Experiment

TASK = "hopper-medium-expert-v2_num100"
RANDOM, EXPERT = -20.272305, 3234.3  # returns that D4RL's scores call 0 and 100


def pairs(*, data_root: str, split: str = "train", strict: bool = False):
    """The opinions, ties included."""
    return robot_preferences(data_root=data_root, task=TASK, split=split, strict=strict)


def segments(*, data_root: str):
    """All segments, each by itself."""
    return pairs(data_root=data_root).flat()


def preferred(*, data_root: str):
    """The preferred segment of each pair, and both of a tie."""
    return pairs(data_root=data_root).preferred()


def optimizer(*, learning_rate: float = 3e-4):
    """Adam, from its beginning in each stage."""
    return adamw(schedule=partial(constant, value=learning_rate), clip_norm=None)


def _learn(
    name: str,
    algorithm: Callable[..., Any],
    train: Callable[..., Any],
    batch_size: int = 12,
    /,
    *,
    data_root: str = "data",
    width: int = 96,
    bc_steps: int = 2000,
    num_steps: int = 1000,
    seed: int = 0,
) -> Experiment:
    returns = partial(
        control_returns,
        world=partial(gymnasium_world, name="Hopper-v5"),
        episodes=10,
        reference_returns=(RANDOM, EXPERT),
        name="hopper",
    )
    return imitation_then(
        algorithm,
        name=f"{name}_seed_{seed}",
        stage_name="opinions",
        optimizer=optimizer,
        observation_size=11,
        action_size=3,
        width=width,
        evaluator=returns,
        imitated=partial(segments, data_root=data_root),
        train=partial(train, data_root=data_root),
        steps=100,
        bc_batch_size=12,
        batch_size=batch_size,
        bc_steps=bc_steps,
        num_steps=num_steps,
        evaluate_every=500,
        log_every=500,
        seed=seed,
        arxiv=("2310.13639", "2305.15363"),
    )


def experiment(
    *,
    data_root: str = "data",
    alpha: float = 0.1,
    bias: float = 1.0,
    bc_weight: float = 1.0,
    width: int = 96,
    bc_steps: int = 2000,
    num_steps: int = 1000,
    seed: int = 0,
) -> Experiment:
    """CPL-BC: opinions and imitation in one loss."""
    return _learn(
        f"cpl_bc_hopper_bias_{bias:g}",
        preferences(partial(losses.cpl_bc, alpha=alpha, bias=bias, bc_weight=bc_weight), optimizer),
        pairs,
        6,
        data_root=data_root,
        width=width,
        bc_steps=bc_steps,
        num_steps=num_steps,
        seed=seed,
    )


def cpl(
    *,
    data_root: str = "data",
    alpha: float = 0.1,
    bias: float = 0.7,
    width: int = 96,
    bc_steps: int = 2000,
    num_steps: int = 1000,
    seed: int = 0,
) -> Experiment:
    """CPL: opinions alone, with a bias towards the data."""
    return _learn(
        f"cpl_hopper_bias_{bias:g}",
        preferences(partial(losses.cpl, alpha=alpha, bias=bias), optimizer),
        pairs,
        6,
        data_root=data_root,
        width=width,
        bc_steps=bc_steps,
        num_steps=num_steps,
        seed=seed,
    )


# Imitation of what was preferred.
sft_preferred = partial(_learn, "sft_preferred_hopper", partial(sft, optimizer=optimizer), preferred)
# More imitation of everything: as many steps, no opinions.
bc = partial(_learn, "bc_hopper", partial(sft, optimizer=optimizer), segments)


def sweep_methods(*, data_root: str = "data", seeds: int = 5) -> list[Experiment]:
    """All four from each of `seeds` seeds."""
    methods = (bc, sft_preferred, cpl, experiment)
    return [build(data_root=data_root, seed=seed) for seed in range(seeds) for build in methods]
