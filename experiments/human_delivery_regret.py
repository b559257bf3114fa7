"""People compare short walks in a delivery town: do they look at what was earned, or at what was missed?

The delivery domain is a grid with a destination (+50, the end), sheep (-50, the end), coins, roadblocks, mud
and a price of gas. Two three-step segments are shown and one is preferred. Under partial return the sum of
rewards decides; under regret, how far the segment falls short of optimal behaviour: a step towards the
destination is then better than a step away from it although both cost the same. Six weights, one for each
kind of reward, are learned from the labels, under partial return or by differentiating through soft value
iteration, and the optimal policy of the learned rewards is measured in the true ones.

`data_root` is a folder with the public human data (github.com/Stephanehk/InfluencingHumanPrefs, its folder
`data`: 9,630 judgements under nine conditions; they carry no licence and are not part of this project).
Without it, people are simulated on a board of ours: they compare by regret, with noise. That shows that the
method finds what it assumes, and says nothing about people.

`scale_of_regret` and `scale_of_return` leave the true rewards as they are and fit one number, the scale;
their held-out loss says which account fits the labels better.

Paper     Knox et al. (2022), arXiv:2206.02231 (the two models, the domain, scaled return). The human data are
          those of a later study of the same group. All numbers below are ours, on simulated people.
Run       jaxpref train experiments/human_delivery_regret.py
          jaxpref train experiments/human_delivery_regret.py data_root=FOLDER
          jaxpref train experiments/human_delivery_regret.py:partial_return
          jaxpref train experiments/human_delivery_regret.py:successors
          jaxpref train experiments/human_delivery_regret.py:scale_of_regret
          jaxpref train experiments/human_delivery_regret.py:scale_of_return
Change    'conditions=("Regret-Trained",)' noise=1 num_steps=1000 temperature=0.2
Ablation  jaxpref sweep experiments/human_delivery_regret.py:sweep_models
          jaxpref sweep experiments/human_delivery_regret.py:sweep_scales
Try       jaxpref train experiments/human_delivery_regret.py --smoke
Cost      30 CPU seconds each (the scales 10); several times as long on the clock while other work ran.
Expect    Simulated people who compare by regret with noise 4: 4,000 pairs to learn from, 1,000 held out (loss
          in nats, accuracy), scaled return of the planned policy (exact), weights over that of gas, and the
          scale, the logit that a unit of gas is worth. 3,000 steps at a rate that falls to 0; three seeds of
          the order of the pairs agree within 0.2 in goal and sheep, 0.0025 in accuracy and 0.001 in the rest:
            regret          0.4965  .707  1.000  goal 22.6, sheep -22.8, coin 0.8, roadblock -1.3, mud -1.8
                            scale 0.239
            successors      0.4962  .714  1.000  goal 23.4, sheep -22.6, coin 0.7, roadblock -1.3, mud -1.9
                            scale 0.229
            partial return  0.5266  .651  1.000  goal 0.7, sheep -32.1, coin 0.8, roadblock -1.1, mud -1.8
                            scale 0.255
          true weights: goal 50, sheep -50, coin 1, roadblock -1, mud -2, scale 1/4. Large ones are hardly
          identified: once a goal is worth its way, more of it changes few regrets. Partial return gives the
          goal almost nothing, and its policy is optimal all the same: what gas costs drives it to the end. It
          needs its steps (its loss is then 0.0001 above the infimum, where sheep are infinitely bad): after
          1,000 at a constant rate a coin was worth more than gas costs, 1.5, and the scaled return 0.668.
          `successors` needs the right policies: with `typical=None` (50 policies for standard normal weights,
          most of which walk some loop for ever) its held-out loss was 0.777 after 1,000 steps at a constant
          rate, worse than a coin's 0.693.
          True rewards times one number, fitted: regret 0.4941 (.714, scale 0.221), partial
          return 0.5560 (.654, scale 0.058).
          Nothing here was measured on people; their data were not at hand.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp

from jaxpref import losses
from jaxpref.algorithms import offline
from jaxpref.algorithms.optimizers import adamw, warmup_linear
from jaxpref.data import SegmentRecords
from jaxpref.data.behaviour.human_delivery import CONDITIONS, delivery_board, human_delivery
from jaxpref.data.behaviour.simulated import simulated_comparisons
from jaxpref.environments.delivery import FEATURES, delivery
from jaxpref.evals import learned_weights, planned_return
from jaxpref.evals.planned import learned_rewards
from jaxpref.experiment import Experiment, Stage
from jaxpref.planning import World, score_by_regret, score_by_return
from jaxpref.policies.rewarded import linear_scores, successor_scores

PAIRS = 5000  # judgements of the simulated people
TYPICAL = (-1.0, 10.0, -10.0, 0.5, -1.0, -1.0)  # of the weights whose optimal policies are in the set


def experiment(
    *,
    data_root: str | None = None,
    conditions: tuple[str, ...] = CONDITIONS,
    noise: float = 4.0,
    temperature: float = 0.05,
    num_steps: int = 3000,
) -> Experiment:
    """The regret model, with the values of soft value iteration."""
    world = partial(town, data_root=data_root)
    score = partial(score_by_regret, temperature=temperature, max_sweeps=100)
    return _learn(
        "delivery_regret",
        partial(linear_scores, world=world, score=score),
        people=partial(comparisons, data_root=data_root, conditions=conditions, noise=noise),
        world=world,
        num_steps=num_steps,
    )


def partial_return(
    *,
    data_root: str | None = None,
    conditions: tuple[str, ...] = CONDITIONS,
    noise: float = 4.0,
    num_steps: int = 3000,
) -> Experiment:
    """The partial return model; its rewards are planned with."""
    world = partial(town, data_root=data_root)
    return _learn(
        "delivery_partial_return",
        partial(linear_scores, world=world, score=score_by_return),
        people=partial(comparisons, data_root=data_root, conditions=conditions, noise=noise),
        world=world,
        num_steps=num_steps,
    )


def successors(
    *,
    data_root: str | None = None,
    conditions: tuple[str, ...] = CONDITIONS,
    noise: float = 4.0,
    num_policies: int = 50,
    typical: tuple[float, ...] | None = TYPICAL,
    num_steps: int = 3000,
) -> Experiment:
    """The regret model with values out of a fixed set of successor features, as the released code learns."""
    world = partial(town, data_root=data_root)
    return _learn(
        "delivery_successors",
        partial(successor_scores, world=world, num_policies=num_policies, typical=typical),
        people=partial(comparisons, data_root=data_root, conditions=conditions, noise=noise),
        world=world,
        num_steps=num_steps,
    )


def scale_of_regret(
    *, data_root: str | None = None, conditions: tuple[str, ...] = CONDITIONS, noise: float = 4.0
) -> Experiment:
    """How well regret under the true rewards fits, times one number."""
    return _scale("scale_of_regret", score_by_regret, data_root, conditions, noise)


def scale_of_return(
    *, data_root: str | None = None, conditions: tuple[str, ...] = CONDITIONS, noise: float = 4.0
) -> Experiment:
    """How well partial return under the true rewards fits, times one number."""
    return _scale("scale_of_return", score_by_return, data_root, conditions, noise)


def sweep_models(*, data_root: str | None = None) -> list[Experiment]:
    """The three ways to learn rewards from the same labels."""
    return [build(data_root=data_root) for build in (experiment, partial_return, successors)]


def sweep_scales(*, data_root: str | None = None) -> list[Experiment]:
    """Both accounts with the true rewards."""
    return [build(data_root=data_root) for build in (scale_of_regret, scale_of_return)]


def town(*, data_root: str | None) -> World:
    """The board that people saw, or ours."""
    return delivery() if data_root is None else delivery(board=delivery_board(data_root))


def true_rewards(*, data_root: str | None) -> World:
    """The same with one feature, the true reward: its weight is the scale."""
    world = town(data_root=data_root)
    return world._replace(features=world.mdp.rewards[..., None], weights=jnp.ones(1))


def comparisons(
    *, data_root: str | None, conditions: tuple[str, ...], noise: float, part: tuple[float, float]
) -> SegmentRecords:
    """People's judgements; without a folder those of simulated people, who compare by regret."""
    world = partial(town, data_root=data_root)
    if data_root is not None:
        return human_delivery(data_root=data_root, world=world, conditions=conditions, part=part)
    count, seed = round(PAIRS * (part[1] - part[0])), round(100 * part[0])
    return simulated_comparisons(world=world, num_pairs=count, temperature=noise, seed=seed)


def _learn(
    name: str,
    policy: Callable[[], Any],
    *,
    people: Callable[..., Any],
    world: Callable[[], World],
    num_steps: int,
) -> Experiment:
    evaluators = (
        partial(planned_return, world=world, table=learned_rewards),
        partial(learned_weights, features=FEATURES),
    )
    return _fit(name, policy, people, num_steps, evaluators)


def _scale(
    name: str, score: Callable[..., Any], data_root: str | None, conditions: tuple[str, ...], noise: float
) -> Experiment:
    world = partial(true_rewards, data_root=data_root)
    # Not from 0, where every policy is optimal and regret has no slope.
    policy = partial(linear_scores, world=world, score=score, initial=(0.1,))
    people = partial(comparisons, data_root=data_root, conditions=conditions, noise=noise)
    scale = partial(learned_weights, features=("true rewards",))
    return _fit(name, policy, people, 1000, (scale,))


def _fit(
    name: str,
    policy: Callable[[], Any],
    people: Callable[..., Any],
    num_steps: int,
    evaluators: tuple[Any, ...],
) -> Experiment:
    return Experiment(
        name=name,
        policy=policy,
        tokenizer=None,
        stages=(
            Stage(
                name="preferences",
                algorithm=partial(
                    offline,
                    loss=losses.bradley_terry_soft,
                    optimizer=partial(
                        adamw,
                        schedule=partial(warmup_linear, peak=0.05, warmup_steps=0),
                        clip_norm=None,
                    ),
                    reference=None,
                ),
                train=partial(people, part=(0.0, 0.8)),
                evaluation=partial(people, part=(0.8, 1.0)),
                evaluators=evaluators,
                num_steps=num_steps,
                batch_size=512,
                evaluate_every=100,
                evaluators_every=100,
                checkpoint_every=num_steps,
            ),
        ),
        log_every=50,
        arxiv=("2206.02231",),
    )
