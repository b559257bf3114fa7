"""What partial return learns from people who regret is the optimal advantage; it is no reward to plan with.

People compare segments by regret, but a table g(s, a) is fitted as if they summed rewards. In the limit g is
the optimal advantage A*: greedy in it is optimal, no planning needed. Taken for a reward and planned with, it
is optimal too in the limit, since A* as a reward is the true one shaped by its own values; but an error that
makes some loop worth more than 0 is then walked for ever. The report draws how value iteration converges:
with the true rewards in a few sweeps, with such a table no faster than the discount.

Segments that end early pin the level of g, because a step that is not there is worth 0, as what is done in an
absorbing state must be. Without them (`absorbing=false`: only segments of full length) adding a constant to
all of g changes no comparison, and the sign of the best entries, hence of loops, is left to chance.

Worlds are random delivery grids of the sizes, shares and rewards of the released generator.

Paper     Knox et al. (2024), arXiv:2310.02456 (the numbers are ours).
Run       jaxpref train experiments/random_mdp_greedy_advantage.py
          jaxpref train experiments/random_mdp_greedy_advantage.py:by_regret
Change    mdp=3 num_pairs=30000 absorbing=false noise=0
Ablation  jaxpref sweep experiments/random_mdp_greedy_advantage.py:sweep_absorbing
          jaxpref sweep experiments/random_mdp_greedy_advantage.py:sweep_pairs
          jaxpref sweep experiments/random_mdp_greedy_advantage.py:sweep_models
Try       jaxpref train experiments/random_mdp_greedy_advantage.py --smoke
Cost      4 to 12 CPU seconds each; several times as long on the clock while other work ran.
Measured  2026-11-21, with random keys of before (DESIGN.md, 58): seeds give other numbers now.
Expect    One seed, 10,000 pairs, 500 steps. Scaled return (exact) of the greedy policy, and of planning with
          g; in brackets the mean over states of the largest entry of g (A* has 0):
            mdp   with ends                     without ends
            0     1.000,   1.000  (0.04)        1.000,  -39.0  (2.9)
            1    -1.762,   0.260  (2.56)        0.229,  -12.9  (3.0)
            2     1.000,   1.000  (0.11)        1.000,  -53.7  (2.8)
            3     0.996,   0.986  (0.35)        1.000, -216.0  (1.4)
            4    -8.533, -31.886  (0.44)        0.056,   0.342 (2.0)
            5     1.000,   1.000  (-0.02)       1.000,  -45.0  (3.6)
          Without ends planning with g walks loops; greedy does not mind the level. The larger worlds 1 (15 x
          10) and 4 (10 x 10) are not learned: greedy with one wrong cell may be a loop, too. 30,000 pairs and
          2,000 steps give 0.065 and 0.330 on world 1; a rate of 0.1 and 1,000 steps 1.000 and -31.9 on 4.
          `by_regret` on worlds 0, 2 and 4: 1.000, 1.000 and 0.986, read either way.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxpref import losses
from jaxpref.algorithms import offline
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data.behaviour.simulated import simulated_comparisons
from jaxpref.environments import varied_delivery
from jaxpref.evals import planned_return, value_sweeps
from jaxpref.experiment import Experiment, Stage
from jaxpref.planning import (
    World,
    greedy_policy,
    optimal_policy,
    score_by_regret,
    score_by_return,
    state_action_features,
)
from jaxpref.policies.rewarded import linear_scores


def experiment(
    *,
    mdp: int = 0,
    num_pairs: int = 10_000,
    absorbing: bool = True,
    noise: float = 1.0,
    num_steps: int = 500,
    seed: int = 0,
) -> Experiment:
    """Partial return fitted to people who regret."""
    return _learn("advantage", score_by_return, mdp, num_pairs, absorbing, noise, num_steps, seed)


def by_regret(
    *,
    mdp: int = 0,
    num_pairs: int = 10_000,
    absorbing: bool = True,
    noise: float = 1.0,
    num_steps: int = 500,
    seed: int = 0,
) -> Experiment:
    """A table of rewards fitted by the model that is true of these people."""
    score = partial(score_by_regret, temperature=0.05, max_sweeps=100)
    return _learn("regret", score, mdp, num_pairs, absorbing, noise, num_steps, seed)


def sweep_absorbing(*, num_mdps: int = 6) -> list[Experiment]:
    """With and without segments that end early, on several worlds."""
    return [experiment(mdp=i, absorbing=a) for i in range(num_mdps) for a in (True, False)]


def sweep_pairs(*, mdp: int = 4) -> list[Experiment]:
    """From few comparisons to many."""
    return [experiment(mdp=mdp, num_pairs=n) for n in (300, 1000, 3000, 10_000, 30_000)]


def sweep_models(*, num_mdps: int = 6) -> list[Experiment]:
    """Partial return and regret on several worlds."""
    return [build(mdp=i) for i in range(num_mdps) for build in (experiment, by_regret)]


def table_of(*, world: Callable[[], World]) -> World:
    """The world with a weight for each action of each state."""
    return state_action_features(world())


def _learn(
    name: str,
    score: Callable[..., Any],
    mdp: int,
    num_pairs: int,
    absorbing: bool,
    noise: float,
    num_steps: int,
    seed: int,
) -> Experiment:
    world = partial(varied_delivery, seed=mdp)
    people = partial(simulated_comparisons, world=world, absorbing=absorbing, temperature=noise)
    ends = "" if absorbing else "_no_ends"
    return Experiment(
        name=f"{name}_mdp_{mdp}_{num_pairs}{ends}",
        policy=partial(linear_scores, world=partial(table_of, world=world), score=score),
        tokenizer=None,
        stages=(
            Stage(
                name="preferences",
                algorithm=partial(
                    offline,
                    loss=losses.bradley_terry_soft,
                    optimizer=partial(adamw, schedule=partial(constant, value=0.3), clip_norm=None),
                    reference=None,
                ),
                train=partial(people, num_pairs=num_pairs, seed=seed),
                evaluation=partial(people, num_pairs=2000, seed=seed + 1_000_000),
                evaluators=(
                    partial(planned_return, world=world, read=greedy_policy, name="greedy"),
                    partial(planned_return, world=world, read=optimal_policy, name="planned with"),
                    partial(value_sweeps, world=world),
                ),
                num_steps=num_steps,
                batch_size=512,
                evaluate_every=100,
                evaluators_every=100,
                checkpoint_every=num_steps,
            ),
        ),
        seed=seed,
        log_every=50,
        arxiv=("2310.02456",),
    )
