"""Better than the best of the ranked: rewards from a few walks of which we only know which was better.

On the grid of `mce_irl_gridworld.py`, six demonstrators walk from random cells: maximum-entropy control of
the hidden rewards at six temperatures, the coldest of which is far from optimal. Learners see 100 pairs out
of 24 walks, and which walk of each pair earned more. Rewards are fitted so that returns explain the ranking
(T-REX), and the optimal policy of the learnt rewards is measured exactly, beside the best demonstrator.
Imitation ends at the demonstrator; a reward says where the ranking points to.

`experiment` has rewards that are linear in a cell's features, as the hidden ones are; `table` a free reward
for each cell and `deep` a network. `bayesian` is B-REX: a chain of linear weights of length 1 given the same
pairs. It measures the policies of the posterior mean and of the likeliest draw (MAP), and says of them and
of the best demonstrator what return holds in 95 % of the draws, beside what it truly is. `released` is B-REX
with the settings of its authors' gridworld program (weights of L1 length 1, short steps, confidence 50). With
`by_return=false` a walk is better if its demonstrator is, whatever it earned.

Paper     Brown et al. (2019), arXiv:1904.06387 (T-REX); Brown et al. (2020), arXiv:2002.09089 (B-REX). The
          grid, the demonstrators and all numbers are ours.
Run       jaxpref train experiments/trex_gridworld.py
          jaxpref train experiments/trex_gridworld.py:bayesian     (or :released)
Change    'temperatures=(20.0,10.0)' walks=32 num_pairs=1000 piece=5 by_return=false data_seed=1
Ablation  jaxpref sweep experiments/trex_gridworld.py:sweep_rewards
          jaxpref sweep experiments/trex_gridworld.py:sweep_best
          jaxpref sweep experiments/trex_gridworld.py:sweep_pairs
Try       jaxpref train experiments/trex_gridworld.py --smoke
Cost      21 to 27 CPU seconds each, most of it compilation and the page.
Expect    The best demonstrator's value share (0: the uniform policy, 1: the optimum) is 0.456.
          Exact measures of what is learnt; means (standard deviations) of `data_seed` 0 to 4:
                                               value share     correlation    pairs right, held out
            linear                             0.998 (0.004)   0.991 (0.013)  0.980 (0.009)
            B-REX, posterior mean              1.000 (0.001)   0.993 (0.007)  0.981 (0.009)
            B-REX, released settings           0.999 (0.001)   0.994 (0.011)  0.991 (0.008)
            network                            0.998 (0.002)   0.989 (0.012)  0.986 (0.010)
            table                              0.132 (0.344)   0.561 (0.149)  0.878 (0.035)
            table, 192 walks, 1000 pairs       0.992 (0.004)   0.940 (0.017)  0.975 (0.002)
            linear, two worst demonstrators    0.994 (0.004)   0.964 (0.030)  0.859 (0.049)
            linear, by demonstrator            0.373 (0.705)   0.431 (0.492)  0.671 (0.129)
            the same, 192 walks, 1000 pairs    0.688 (0.243)   0.891 (0.080)  0.738 (0.017)
          The two worst demonstrators have shares of 0.057 and 0.109. Who walked says little of what a walk
          earned, which is where it began and its luck as well; those five shares run from -0.84 to 0.98.
          B-REX, hidden rewards scaled to weights of length 1: the optimum is worth 4.31 and the best
          demonstrator 2.26. The bound of the posterior mean's policy is 3.74 (0.34), it truly earns 4.30
          (0.00); the demonstrator's bound is 1.83 (0.27). Both held in all five draws of walks. Ten pairs
          left the policy a bound of 2.04 (1.85), and it earned 4.27 (0.04; measured 2026-11-21). With 100
          pairs the policies of MAP and mean are worth the same to three digits in four of the five draws.
          With the released settings, scaled to L1 length 1: the policy's bound is 2.42 (0.14), it truly earns
          2.68 (0.00); the demonstrator's bound is 1.24 (0.10), it truly earns 1.41. All held in all five.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from _hidden_grid import HIDDEN, SIZE, features, start, world

from jaxpref import losses
from jaxpref.algorithms import bayesian_rex, offline
from jaxpref.algorithms.bayesian_rex import GRIDWORLD
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data import SegmentRecords
from jaxpref.data.behaviour.demonstrations import demonstrations
from jaxpref.data.behaviour.rankings import ranked_pairs
from jaxpref.evals import posterior_returns, reward_recovery
from jaxpref.experiment import Experiment, Stage
from jaxpref.planning import values
from jaxpref.policies.reward_functions import linear_reward, mlp_reward, tabular_reward
from jaxpref.policies.rewarded import return_scores

TEMPERATURES = (20.0, 10.0, 7.0, 5.0, 3.0, 2.0)  # from the worst demonstrator to the best


def demonstrator(*, temperature: float):
    """Maximum-entropy control `[s, a]` of the hidden rewards."""
    return np.asarray(values(world(), temperature)[2])


def comparisons(
    *,
    temperatures: tuple[float, ...],
    walks: int,
    steps: int,
    piece: int | None,
    by_return: bool,
    num_pairs: int,
    seed: int,
) -> SegmentRecords:
    """Pairs of the demonstrators' walks, or of pieces of them; the better one is the first."""
    ranks = [
        demonstrations(
            world(), demonstrator(temperature=t), start=start(), num=walks, steps=steps, seed=100 * seed + i
        )
        for i, t in enumerate(temperatures)
    ]
    if by_return:
        everyone = [walk for rank in ranks for walk in singles(rank)]
        ranks = sorted(everyone, key=earned)
    return ranked_pairs(ranks, num_pairs=num_pairs, piece=piece, seed=seed)


def singles(rank: SegmentRecords) -> list[SegmentRecords]:
    return [rank.take([i]) for i in range(len(rank))]


def earned(walk: SegmentRecords) -> float:
    """The sum of its hidden rewards."""
    return float((features() @ np.array(HIDDEN))[walk.observations].sum())


def _rank(
    name: str,
    rewards: Callable[..., Any],
    algorithm: Callable[..., Any],
    more: Callable[..., Any] | None = None,  # another evaluator, of policies by name
    /,
    *,
    temperatures: tuple[float, ...] = TEMPERATURES,
    walks: int = 4,
    steps: int = 40,
    piece: int | None = None,
    by_return: bool = True,
    num_pairs: int = 100,
    num_steps: int = 200,
    data_seed: int = 0,
    seed: int = 0,
) -> Experiment:
    pairs = partial(
        comparisons,
        temperatures=temperatures,
        walks=walks,
        steps=steps,
        piece=piece,
        by_return=by_return,
    )
    best = {"best demonstrator": partial(demonstrator, temperature=temperatures[-1])}
    recovery = partial(reward_recovery, world=world, rewards=rewards, start=start, width=SIZE, beside=best)
    return Experiment(
        name=f"{name}_{temperatures[-1]:g}_{num_pairs}",
        policy=partial(return_scores, world=world, rewards=rewards),
        tokenizer=None,
        stages=(
            Stage(
                name="ranking",
                algorithm=algorithm,
                train=partial(pairs, num_pairs=num_pairs, seed=data_seed),
                evaluation=partial(pairs, num_pairs=1000, seed=data_seed + 1000),
                evaluators=(recovery,) if more is None else (recovery, partial(more, policies=best)),
                num_steps=num_steps,
                batch_size=num_pairs,  # all of them: no noise
                evaluate_every=max(num_steps // 10, 1),
                evaluators_every=max(num_steps // 10, 1),
                checkpoint_every=num_steps,
            ),
        ),
        seed=seed,
        arxiv=("1904.06387", "2002.09089"),
    )


_linear = partial(linear_reward, features=features)
_trex = partial(
    offline,
    loss=losses.trajectory_bradley_terry,
    optimizer=partial(adamw, schedule=partial(constant, value=0.1), clip_norm=None),
    reference=None,
)
_held = partial(
    posterior_returns, world=world, rewards=_linear, start=start, unit=float(np.linalg.norm(HIDDEN))
)

# T-REX with rewards that are linear in the features, as the hidden ones are.
experiment = partial(_rank, "trex_linear", _linear, _trex)
# A reward for each cell: nothing is known of cells.
table = partial(_rank, "trex_table", partial(tabular_reward, states=SIZE**2), _trex)
# A network of the features.
deep = partial(_rank, "trex_deep", partial(mlp_reward, features=features, hidden=(32,)), _trex)
# B-REX: 1,000 draws a step, of which the last step's count.
bayesian = partial(_rank, "bayesian_rex", _linear, partial(bayesian_rex, confidence=4.0), _held, num_steps=20)
# The same with the settings of the paper's gridworld program, whose weights have L1 length 1.
released = partial(
    _rank,
    "bayesian_rex_released",
    _linear,
    partial(bayesian_rex, **GRIDWORLD),
    partial(_held, unit=float(np.abs(HIDDEN).sum())),
    num_steps=20,
)


def sweep_rewards(*, num_pairs: int = 100) -> list[Experiment]:
    """Linear, table, network and the posterior, of the same pairs."""
    return [build(num_pairs=num_pairs) for build in (experiment, table, deep, bayesian)]


def sweep_best() -> list[Experiment]:
    """How far above the best demonstrator, from poor ones to better ones?"""
    return [experiment(temperatures=TEMPERATURES[:n]) for n in (2, 3, 4, 5, 6)]


def sweep_pairs() -> list[Experiment]:
    """How many comparisons does the posterior take?"""
    return [bayesian(num_pairs=n) for n in (10, 30, 100, 300, 1000)]
