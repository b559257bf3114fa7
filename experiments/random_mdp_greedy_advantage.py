"""draft"""

from collections.abc import Callable
from functools import partial

from jaxpref import losses
from jaxpref.algorithms import offline
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data.simulated import simulated_comparisons
from jaxpref.environments import varied_delivery
from jaxpref.evals import planned_return
from jaxpref.experiment import Experiment, Stage
from jaxpref.planning import World, greedy_policy, optimal_policy, state_action_features
from jaxpref.policies.rewarded import linear_rewards


def experiment(
    *,
    mdp: int = 0,
    num_pairs: int = 10_000,
    absorbing: bool = True,
    temperature: float = 1.0,
    num_steps: int = 1000,
    learning_rate: float = 0.1,
    seed: int = 0,
) -> Experiment:
    world = partial(varied_delivery, seed=mdp)
    segments = partial(simulated_comparisons, world=world, absorbing=absorbing, temperature=temperature)
    read = partial(planned_return, world=world)
    return Experiment(
        name=f"greedy_advantage_mdp_{mdp}",
        policy=partial(linear_rewards, world=partial(_table, world=world)),
        tokenizer=None,
        stages=(
            Stage(
                name="preferences",
                algorithm=partial(
                    offline,
                    loss=losses.bradley_terry_soft,
                    optimizer=partial(adamw, schedule=partial(constant, value=learning_rate), clip_norm=None),
                    reference=None,
                ),
                train=partial(segments, num_pairs=num_pairs, seed=seed),
                evaluation=partial(segments, num_pairs=2000, seed=seed + 1_000_000),
                evaluators=(
                    partial(read, read=greedy_policy, name="greedy"),
                    partial(read, read=optimal_policy, name="as a reward"),
                ),
                num_steps=num_steps,
                batch_size=512,
                evaluate_every=num_steps // 4,
                evaluators_every=max(num_steps // 4, 1),
                checkpoint_every=num_steps,
            ),
        ),
        seed=seed,
        log_every=100,
        arxiv=("2310.02456",),
    )


def _table(*, world: Callable[[], World]) -> World:
    return state_action_features(world())
