"""What contrastive preference learning converges to, on a world small enough to know.

Four states, three actions, random rewards and transitions. People who compare segments by regret (their
probabilities are exact here, and every pair of two-step segments is asked about) have their opinions
explained by one policy: the one that maximises return plus alpha times entropy. CPL finds it without ever
seeing a reward. With a bias below 1, which practice needs to stay near its data, the minimum is another
policy: the bias is a regulariser, and opinions without end do not wash it out.

Paper     Hejna et al. (2023), arXiv:2310.13639; regret preferences: Knox et al. (2022), arXiv:2206.02231.
Run       jaxpref train experiments/cpl_tabular.py
Change    bias=0.5 alpha=0.5 discount=0.8 seed=1 num_steps=1000
Ablation  jaxpref sweep experiments/cpl_tabular.py:sweep_bias
Try       jaxpref train experiments/cpl_tabular.py --smoke
Cost      25 seconds each on 2 CPU cores beside other work.
Expect    largest |pi - pi*|: 0.000 at bias 1 (0.341 before) and 0.150 at bias 0.5. In float64, by L-BFGS on
          the same loss: 3e-10 at bias 1; 0.150, 0.261, 0.342, 0.277, 0.333 and 0.333 at bias 0.5 for the
          worlds of seeds 0 to 5.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxpref import losses
from jaxpref.algorithms import offline
from jaxpref.algorithms.optimizers import adamw, warmup_cosine
from jaxpref.data import SegmentRecords
from jaxpref.evals import soft_optimal_error
from jaxpref.experiment import Experiment, Stage
from jaxpref.planning import TabularMDP, values
from jaxpref.policies.states import state_table

STATES, ACTIONS = 4, 3


def world(*, discount: float = 0.8, seed: int = 0) -> TabularMDP:
    """Normal rewards, and transitions uniform on the simplex; no state ends an episode."""
    generator = np.random.default_rng(seed)
    transitions = generator.dirichlet(np.ones(STATES), (STATES, ACTIONS))
    rewards = generator.normal(size=(STATES, ACTIONS))
    return TabularMDP(
        jnp.asarray(transitions), jnp.asarray(rewards), jnp.zeros(STATES, bool), discount=discount
    )


def every_segment() -> tuple[np.ndarray, np.ndarray]:
    """States and actions `[segments, 2]` of all segments of two steps: any state may follow any action."""
    s0, a0, s1, a1 = np.indices((STATES, ACTIONS, STATES, ACTIONS)).reshape(4, -1)
    return np.stack([s0, s1], 1), np.stack([a0, a1], 1)


def regret_pairs(*, alpha: float = 0.5, discount: float = 0.8, seed: int = 0) -> SegmentRecords:
    """All pairs of different segments, with P(first beats second) of the regret model."""
    states, actions = every_segment()
    first, second = np.triu_indices(len(states), 1)
    p = regret_probabilities(world(discount=discount, seed=seed), alpha)[first, second]
    return SegmentRecords.pairs(
        np.stack([states[first], states[second]], 1),
        np.stack([actions[first], actions[second]], 1),
        1 - p,
    )


def regret_probabilities(mdp: TabularMDP, alpha: float) -> np.ndarray:
    """`[segments, segments]`: sigmoid of the difference of discounted sums of optimal soft advantages."""
    _, q, _ = values(mdp, alpha, tolerance=1e-14 if mdp.rewards.dtype == jnp.float64 else 1e-6)
    advantages = np.asarray(alpha * jax.nn.log_softmax(q / alpha, -1), np.float64)
    states, actions = every_segment()
    sums = advantages[states, actions] @ (mdp.discount ** np.arange(2))
    return 1 / (1 + np.exp(sums[None] - sums[:, None]))


def experiment(
    *,
    bias: float = 1.0,
    alpha: float = 0.5,
    discount: float = 0.8,
    num_steps: int = 500,
    seed: int = 0,
) -> Experiment:
    """All pairs in every step. `seed` is that of the world."""
    pairs = partial(regret_pairs, alpha=alpha, discount=discount, seed=seed)
    return Experiment(
        name=f"cpl_tabular_bias_{bias:g}",
        policy=partial(state_table, states=STATES, actions=ACTIONS),
        tokenizer=None,
        stages=(
            Stage(
                name="opinions",
                algorithm=partial(
                    offline,
                    loss=partial(losses.cpl, alpha=alpha, bias=bias, discount=discount),
                    optimizer=partial(
                        adamw,
                        schedule=partial(warmup_cosine, peak=0.1, warmup_steps=10),
                        clip_norm=None,
                    ),
                    reference=None,
                ),
                train=pairs,
                num_steps=num_steps,
                batch_size=10296,
                response_buckets=(2,),
                evaluators=(
                    partial(
                        soft_optimal_error,
                        mdp=partial(world, discount=discount, seed=seed),
                        temperature=alpha,
                    ),
                ),
                evaluators_every=max(num_steps // 10, 1),
                checkpoint_every=num_steps,
                shuffle=False,
            ),
        ),
        seed=seed,
        log_every=100,
        arxiv=("2310.13639", "2206.02231"),
    )


def sweep_bias(*, seed: int = 0) -> list[Experiment]:
    """The consistent loss, and three that are not."""
    return [experiment(bias=bias, seed=seed) for bias in (1.0, 0.9, 0.7, 0.5)]
