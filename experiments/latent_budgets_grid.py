"""How far ahead do they look? Agents with the same rewards and different budgets, told apart by what they do.

Both walk the delivery grid with rewards that are known. At every step an agent looks 1, 2, 4, 8 or 16 steps
ahead and chooses by softmax; the first looks 1 step ahead most of the time, the second 16. How far it looked
is never seen. A mixture of the five planners with shares for each agent is fitted by imitation, on the
likelihood of actions alone. The usual account, one planner that sees everything with a temperature for each
agent (`boltzmann`), has to call the first agent noisy.

With `per_step=false` a budget is drawn for each trajectory rather than for each decision, and fitted as such.

Paper     Jacob, Gupta & Andreas (2024), arXiv:2312.04030 (known to us by abstract and reviews; domain, agents
          and all numbers are ours).
Run       jaxpref train experiments/latent_budgets_grid.py
          jaxpref train experiments/latent_budgets_grid.py:boltzmann
Change    per_step=false num_segments=500 temperature=1.0
Ablation  jaxpref sweep experiments/latent_budgets_grid.py:sweep_models
          jaxpref sweep experiments/latent_budgets_grid.py:sweep_segments
Try       jaxpref train experiments/latent_budgets_grid.py --smoke
Cost      6 to 9 CPU seconds each.
Expect    One seed, 2,000 trajectories of each agent; held-out loss in nats for each decision, shares found
          (true ones .60 .20 .10 .05 .05 and .05 .05 .10 .20 .60):
            a budget for each decision    mixture 0.8923, Boltzmann 1.010
              .596 .213 .098 .054 .040   .051 .056 .088 .187 .619
            one for each trajectory       mixture 0.8453, Boltzmann 1.033
              .571 .243 .084 .056 .045   .043 .050 .118 .206 .583
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxpref.algorithms import sft
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data.behaviour.simulated import simulated_agents
from jaxpref.environments import delivery
from jaxpref.evals import budget_shares
from jaxpref.experiment import Experiment, Stage
from jaxpref.planning import per_decision, per_trajectory
from jaxpref.policies.budgets import boltzmann_agents, latent_budgets

BUDGETS = (1, 2, 4, 8, 16)
SHARES = ((0.6, 0.2, 0.1, 0.05, 0.05), (0.05, 0.05, 0.1, 0.2, 0.6))


def experiment(
    *, per_step: bool = True, num_segments: int = 2000, temperature: float = 0.5, num_steps: int = 200
) -> Experiment:
    """A mixture of planners for each agent."""
    policy = partial(
        latent_budgets,
        world=town,
        budgets=BUDGETS,
        agents=len(SHARES),
        mixture=per_decision if per_step else per_trajectory,
        temperature=temperature,
    )
    shares = partial(budget_shares, budgets=BUDGETS)
    return _imitate("budgets", policy, per_step, num_segments, temperature, num_steps, (shares,))


def boltzmann(
    *, per_step: bool = True, num_segments: int = 2000, temperature: float = 0.5, num_steps: int = 200
) -> Experiment:
    """One planner that looks all the way, and a temperature for each agent."""
    policy = partial(boltzmann_agents, world=town, agents=len(SHARES))
    return _imitate("boltzmann", policy, per_step, num_segments, temperature, num_steps, ())


def sweep_models(*, num_segments: int = 2000) -> list[Experiment]:
    """Both accounts of both kinds of agents."""
    return [
        build(per_step=s, num_segments=num_segments)
        for s in (True, False)
        for build in (experiment, boltzmann)
    ]


def sweep_segments() -> list[Experiment]:
    """From few trajectories to many."""
    return [experiment(num_segments=n) for n in (50, 200, 1000, 5000)]


def town():
    """The delivery grid, where what is 16 steps away still matters."""
    return delivery(discount=0.99)


def _imitate(
    name: str,
    policy: Callable[[], Any],
    per_step: bool,
    num_segments: int,
    temperature: float,
    num_steps: int,
    evaluators: tuple[Any, ...],
) -> Experiment:
    agents = partial(
        simulated_agents,
        world=town,
        budgets=BUDGETS,
        shares=SHARES,
        length=15,
        temperature=temperature,
        per_step=per_step,
    )
    return Experiment(
        name=f"{name}_{'decisions' if per_step else 'trajectories'}_{num_segments}",
        policy=policy,
        tokenizer=None,
        stages=(
            Stage(
                name="imitation",
                algorithm=partial(
                    sft,
                    optimizer=partial(adamw, schedule=partial(constant, value=0.05), clip_norm=None),
                ),
                train=partial(agents, num_segments=num_segments),
                evaluation=partial(agents, num_segments=1000, seed=1),
                evaluators=evaluators,
                num_steps=num_steps,
                batch_size=1024,
                evaluate_every=50,
                evaluators_every=50,
                checkpoint_every=num_steps,
            ),
        ),
        log_every=20,
        arxiv=("2312.04030",),
    )
