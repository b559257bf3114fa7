"""Inverse reinforcement learning on a grid: which rewards do walks reveal?

An 8 x 8 grid with ten objects of four kinds; the hidden reward of a cell is linear in its closeness to the
nearest object of each kind (one kind is liked, one avoided, one liked a little, one does not matter). One
move in ten goes astray. An expert with maximum-entropy control walks from random cells, and a planned policy
is fitted to the walks by likelihood: its params are rewards, and its gradient is the expert's feature counts
less its own. Rewards are measured exactly: the policy they plan, and what it earns in hidden rewards.

`table` has one free reward for each cell and `deep` a network of the features. `bayesian` is the MAP estimate
under Boltzmann choices in the optimal values, which this expert does not make, with a Gaussian prior.
`max_margin` takes the walks for the best of all, which they are not either, and `f_irl` matches how often
what is done, on longer walks.

Paper     Ziebart et al. (2008, 2010; maximum entropy IRL), Wulfmeier et al. (2015), arXiv:1507.04888 (deep),
          Ramachandran & Amir (2007; Bayesian), Ratliff et al. (2006; max-margin), Ni et al. (2020),
          arXiv:2011.04709 (f-IRL). The grid and all numbers are ours.
Run       jaxpref train experiments/mce_irl_gridworld.py
          jaxpref train experiments/mce_irl_gridworld.py:deep
Change    walks=16 steps=10 num_steps=100 data_seed=1
Ablation  jaxpref sweep experiments/mce_irl_gridworld.py:sweep_rewards
          jaxpref sweep experiments/mce_irl_gridworld.py:sweep_walks
Try       jaxpref train experiments/mce_irl_gridworld.py --smoke
Cost      35 to 55 seconds each on 2 busy CPU cores, most of it compilation.
Expect    Exact measures; means (standard deviations) of five draws of walks, `data_seed` 0 to 4:
                                 held-out loss   policy KL       correlation    value difference
            linear, 4 walks      1.197 (0.012)   0.041  (0.018)  0.922 (0.070)  0.171 (0.116)
            linear, 16           1.158 (0.011)   0.0049 (0.003)  0.994 (0.004)  0.003 (0.001)
            linear, 64           1.155 (0.012)   0.0015 (0.001)  0.997 (0.002)  0.005 (0.009)
            linear, 256          1.153 (0.012)   0.0006 (0.000)  0.999 (0.001)  0.002 (0.001)
            table, 16            1.251 (0.016)   0.107  (0.013)  0.624 (0.059)  0.266 (0.073)
            table, 64            1.177 (0.013)   0.029  (0.006)  0.845 (0.013)  0.171 (0.145)
            table, 256           1.158 (0.012)   0.0077 (0.002)  0.929 (0.019)  0.044 (0.036)
            network, 64          1.158 (0.013)   0.0048 (0.001)  0.985 (0.007)  0.015 (0.007)
            Bayesian MAP, 64     1.168 (0.011)   0.0095 (0.005)  0.989 (0.007)  0.036 (0.023)
            f-IRL, 64 of 60      1.174 (0.006)   0.022  (0.007)  0.985 (0.013)  0.031 (0.023)
            max-margin, 64       -               0.456  (0.026)  0.909 (0.030)  0.528 (0.460)
          Losses are nats a step, of f-IRL the `nll`, of the MAP that of its own choices. The policy KL is
          that of soft control with the learnt rewards, so max-margin, which has no unit of reward, is not at
          home in it. Mean value shares are all above 0.96. Knowing the features is worth more than sixteen
          times the walks.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from _hidden_grid import SIZE, expert_walks, features, start, world

from jaxpref import losses
from jaxpref.algorithms import occupancy_matching, offline, sft
from jaxpref.algorithms.optimizers import adamw, gaussian_log_prior, warmup_cosine, with_prior
from jaxpref.evals import reward_recovery
from jaxpref.experiment import Experiment, Stage
from jaxpref.policies.margins import margin_returns
from jaxpref.policies.planned import planned
from jaxpref.policies.reward_functions import linear_reward, mlp_reward, tabular_reward


def optimizer(*, learning_rate: float = 0.1):
    return adamw(
        schedule=partial(warmup_cosine, peak=learning_rate, warmup_steps=5),
        clip_norm=None,
    )


def _fit(
    name: str,
    rewards: Callable[..., Any],
    algorithm: Callable[..., Any] = sft,
    optimal: bool = False,
    count: int | None = None,  # terms the loss is a mean over; None: steps
    /,
    *,
    scale: float | None = None,  # standard deviation of a normal prior of the weights
    walks: int = 64,
    steps: int = 20,
    num_steps: int = 200,
    data_seed: int = 0,
    seed: int = 0,
) -> Experiment:
    learner: Callable[..., Any] = optimizer
    if scale is not None:
        prior = partial(gaussian_log_prior, scale=scale)
        learner = partial(with_prior, optimizer=learner, log_prior=prior, count=count or walks * steps)
    return Experiment(
        name=f"{name}_{walks}",
        policy=partial(planned, world=world, rewards=rewards, optimal=optimal),
        tokenizer=None,
        stages=(
            Stage(
                name="irl",
                algorithm=partial(algorithm, optimizer=learner),
                train=partial(expert_walks, walks=walks, steps=steps, seed=data_seed),
                evaluation=partial(expert_walks, walks=256, steps=steps, seed=data_seed + 1000),
                evaluators=(partial(reward_recovery, world=world, rewards=rewards, start=start, width=SIZE),),
                num_steps=num_steps,
                batch_size=walks,  # all of them: no noise
                evaluate_every=20,
                evaluators_every=20,
                checkpoint_every=num_steps,
            ),
        ),
        seed=seed,
        arxiv=("1507.04888", "2011.04709"),
    )


_linear = partial(linear_reward, features=features)

# Rewards that are linear in the features, as the hidden ones are.
experiment = partial(_fit, "mce_irl_linear", _linear)
# A reward for each cell: nothing is known of cells.
table = partial(_fit, "mce_irl_table", partial(tabular_reward, states=SIZE**2))
# A network of the features: deep MaxEnt IRL.
deep = partial(_fit, "mce_irl_deep", partial(mlp_reward, features=features, hidden=(32,)))
# MAP under Boltzmann choices in the optimal values.
bayesian = partial(_fit, "bayesian_irl", _linear, sft, True, scale=3.0)
# f-IRL: KL(learner || expert) of the occupancies, by the gradient through planning.
f_irl = partial(_fit, "f_irl", _linear, partial(occupancy_matching, world=world), steps=60)


def max_margin(
    *,
    margin: float = 1.0,
    scale: float = 3.0,
    walks: int = 64,
    steps: int = 20,
    num_steps: int = 200,
    data_seed: int = 0,
    seed: int = 0,
) -> Experiment:
    """Max-margin planning: demonstrations should beat every plan by what it does otherwise."""
    features = partial(margin_returns, world=world, rewards=_linear, margin=margin, horizon=steps)
    return _fit(
        "max_margin",
        _linear,
        partial(offline, loss=losses.max_margin_planning, reference=None, features=features),
        False,
        walks,
        scale=scale,
        walks=walks,
        steps=steps,
        num_steps=num_steps,
        data_seed=data_seed,
        seed=seed,
    )


def sweep_rewards(*, walks: int = 64) -> list[Experiment]:
    """Linear, table, network, MAP and max-margin on the same walks."""
    return [build(walks=walks) for build in (experiment, table, deep, bayesian, max_margin)]


def sweep_walks() -> list[Experiment]:
    """How many walks does a linear reward take?"""
    return [experiment(walks=walks) for walks in (4, 16, 64, 256)]
