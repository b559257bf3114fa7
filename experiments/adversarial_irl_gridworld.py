"""GAIL, AIRL and IQ-Learn without a sample of the learner, on the grid of `mce_irl_gridworld.py`.

The discriminator is a table of states and actions that tells the expert's occupancy from the learner's,
which is exact; the learner is a table of action probabilities that climbs the exact values of what it earns.
So what is left of the methods is the game, and how much of the expert the demonstrations show: what no walk
does looks like the learner's own doing, and it learns to leave it. `iq_learn` is one player, a table of soft
Q values; `cloning` is the likelihood of a table, which knows nothing of the world.

Paper     Ho & Ermon (2016), arXiv:1606.03476 (GAIL); Fu, Luo & Levine (2018), arXiv:1710.11248 (AIRL);
          Garg et al. (2021), arXiv:2106.12142 (IQ-Learn). The grid and all numbers are ours.
Run       jaxpref train experiments/adversarial_irl_gridworld.py
          jaxpref train experiments/adversarial_irl_gridworld.py:airl
Change    walks=1024 steps=40 temperature=0.1 step_size=0.1 num_steps=400
Ablation  jaxpref sweep experiments/adversarial_irl_gridworld.py:sweep_methods
Try       jaxpref train experiments/adversarial_irl_gridworld.py --smoke
Cost      29 CPU seconds each (1.5 minutes while a dozen other jobs ran).
Expect    Exact measures; means (standard deviations) of five draws of 256 walks, `data_seed` 0 to 4. Policy
          KL (nats), value share (the expert's own value is 1; policies are as drawn), held-out `nll`, and the
          correlation of what the discriminator learnt with the hidden rewards:
            AIRL, shaped         0.0008 (0.001)  0.997 (0.007)  1.144 (0.013)  0.998 (0.002)
            AIRL, table          0.080  (0.018)  0.996 (0.010)  1.215 (0.026)  0.203 (0.030)
            cloning              0.087  (0.016)  1.006 (0.009)  1.184 (0.012)  (its `loss`)
            IQ-Learn, alpha 5    0.123  (0.024)  0.981 (0.009)  -
            GAIL, table          0.129  (0.048)  0.979 (0.032)  1.264 (0.055)  0.289 (0.044)
            AIRL, unshaped       0.534  (0.019)  0.229 (0.009)  1.690 (0.029)  0.506 (0.011)
            GAIL, temperature 0  1.589  (0.300)  0.992 (0.010)  2.560 (0.275)
          AIRL's table is an advantage and GAIL's a log-ratio: neither is the reward, and the policy is near
          the expert's all the same. The reward inside the shaped one is.
          Tables fit what is odd about 256 walks, GAIL without a price on negative entropy most of all; a
          reward of four features with a potential of each cell generalises. Without the potential the
          learner cannot be the expert.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from _hidden_grid import SIZE, expert_walks, features, start, world

from jaxpref import losses
from jaxpref.algorithms import offline, sft
from jaxpref.algorithms.adversarial import adversarial
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.environments.grids import MOVES
from jaxpref.evals import policy_recovery
from jaxpref.experiment import Experiment, Stage
from jaxpref.losses.imitation import airl_rewards, gail_rewards
from jaxpref.policies.margins import soft_q_values
from jaxpref.policies.reward_functions import linear_reward, shaped_reward, tabular_reward
from jaxpref.policies.states import state_table


def optimizer(*, learning_rate: float = 0.1):
    return adamw(schedule=partial(constant, value=learning_rate), clip_norm=None)


def _learn(
    name: str,
    algorithm: Callable[..., Any],
    learns: Callable[..., Any] | None = None,  # the reward function
    part: str | None = None,  # of its params, where it is shaped
    /,
    *,
    walks: int = 256,
    steps: int = 40,
    num_steps: int = 1000,
    data_seed: int = 0,
) -> Experiment:
    return Experiment(
        name=f"{name}_{walks}",
        policy=partial(state_table, states=SIZE**2, actions=len(MOVES)),
        tokenizer=None,
        stages=(
            Stage(
                name="imitation",
                algorithm=algorithm,
                train=partial(expert_walks, walks=walks, steps=steps, seed=data_seed),
                evaluation=partial(expert_walks, walks=256, steps=steps, seed=data_seed + 1000),
                evaluators=(
                    partial(
                        policy_recovery,
                        world=world,
                        start=start,
                        width=SIZE,
                        discriminator=learns,
                        part=part,
                    ),
                ),
                num_steps=num_steps,
                batch_size=walks,  # all of them: no noise
                evaluate_every=100,
                evaluators_every=100,
                checkpoint_every=num_steps,
            ),
        ),
        arxiv=("1606.03476", "1710.11248", "2106.12142"),
    )


def _play(
    name: str,
    loss: Callable[..., Any],
    earns: Callable[..., Any],
    rewards: Callable[..., Any],
    unshaped: Callable[..., Any] | None = None,
    /,
    *,
    walks: int = 256,
    steps: int = 40,
    temperature: float = 0.0,
    step_size: float = 0.2,
    num_steps: int = 1000,
    data_seed: int = 0,
) -> Experiment:
    game = partial(
        adversarial,
        world=world,
        rewards=rewards,
        optimizer=optimizer,
        loss=loss,
        earns=earns,
        temperature=temperature,
        step_size=step_size,
        discriminator_steps=2,
    )
    learns, part = (rewards, None) if unshaped is None else (unshaped, "reward")
    return _learn(
        name, game, learns, part, walks=walks, steps=steps, num_steps=num_steps, data_seed=data_seed
    )


_table = partial(tabular_reward, states=SIZE**2, actions=len(MOVES))
_of_features = partial(linear_reward, features=features)
_shaped = partial(shaped_reward, rewards=_of_features, world=world)

# GAIL, with a price on the learner's negative entropy.
experiment = partial(_play, "gail_table", losses.gail, gail_rewards, _table, temperature=0.1)
# AIRL: what it earns has the entropy in it.
airl = partial(_play, "airl_table", losses.airl, airl_rewards, _table)
# A reward that is linear in a cell's features, and a potential of each cell to shape it.
airl_shaped = partial(_play, "airl_shaped", losses.airl, airl_rewards, _shaped, _of_features)
# The same without the potential: AIRL's logit asks for an advantage, and no reward of cells is one.
airl_unshaped = partial(_play, "airl_unshaped", losses.airl, airl_rewards, _of_features)
# Imitation by likelihood of a table: nothing is known of the world.
cloning = partial(_learn, "cloning", partial(sft, optimizer=optimizer))


def iq_learn(
    *, walks: int = 256, steps: int = 40, alpha: float = 5.0, num_steps: int = 1000, data_seed: int = 0
) -> Experiment:
    """Inverse soft Q-learning, offline: one player, whose Q knows the world."""
    features = partial(soft_q_values, world=world)
    loss = partial(losses.iq_learn, discount=0.9, alpha=alpha)
    game = partial(offline, loss=loss, reference=None, features=features, optimizer=optimizer)
    return _learn("iq_learn", game, walks=walks, steps=steps, num_steps=num_steps, data_seed=data_seed)


def sweep_methods(*, walks: int = 256) -> list[Experiment]:
    """All of them on the same walks."""
    return [build(walks=walks) for build in (experiment, airl, airl_shaped, airl_unshaped, iq_learn, cloning)]
