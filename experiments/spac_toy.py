"""SPAC where one action is in no comparison: does the policy leave it, and find the best of the others?

Four actions with rewards (0.2, 0.9, 0.5, 0.4), compared as Bradley and Terry would have it with three times
the rewards, and the fourth never compared: for all that the data say it may be anything. The policy starts
uniform, is a table, and every expectation is exact (all pairs, all samples). A round minimises the loss with
the policy at its start as the reference and as the sampler; there are six.

DPO against the same iterate sees no slope at all for the fourth action. SPAC holds the pair against samples
of the iterate, so mass that no comparison defends goes away. The loss is our reading of the paper (its
formula is known to us second hand). `two_timescales` has the critic as a player of its own.

Paper     Ji et al. (2024), arXiv:2406.04274 (the toy and all numbers are ours; the paper trains Mistral-7B).
Run       jaxpref train experiments/spac_toy.py
          jaxpref train experiments/spac_toy.py:dpo
          jaxpref train experiments/spac_toy.py:two_timescales
Change    weight=100 eta=0.3 round_steps=300
Ablation  jaxpref sweep experiments/spac_toy.py:sweep_methods
          jaxpref sweep experiments/ablations/spac_critic_weight.py:sweep_weights
Try       jaxpref train experiments/spac_toy.py --smoke
Cost      15 seconds of CPU each (1 minute for `sweep_methods`; four times as long while other work ran).
Expect    Exact, so no interval. Expected reward (0.9 is best) and mass on the fourth action (0.25 at first),
          eta 0.3, lambda 10, after rounds 1 and 6 of 100 Adam steps:
            SPAC              0.594, 0.041;  0.819, 0.0004   (with exact minima 0.8194 after six)
            DPO, same anchor  0.556, 0.247;  0.794, 0.116    (no slope: what is left depends on the optimizer,
                                                              and gradient descent leaves 0.244 and 0.108)
            SPAC from the start 0.598, 0.023; DPO from the start 0.557, 0.247 (both after six hundred steps)
            linear SPAC       0.400, 1.000: without a floor all mass goes where no pair holds it
          eta 1, lambda 10: 0.8977, 3e-5 after six rounds (exact minima 0.8978).
          `two_timescales`: 0.9000 and 0.0000 from step 100 on; the mixture of all 400 policies is worth
          0.8947 and has 0.0020 on the fourth (with a critic solved each round 0.8931).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from jaxpref import losses
from jaxpref.algorithms import offline, online, spac
from jaxpref.algorithms.copies import copied
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data.text.actions import action_pairs, actions_tokenizer
from jaxpref.environments import uncovered_bandit
from jaxpref.evals import bandit_policy
from jaxpref.experiment import Experiment, Stage
from jaxpref.policies.reward_table import reward_table
from jaxpref.policies.tabular import tabular

ROUNDS = 6
PAIRS = tuple((i, j) for i in range(3) for j in range(3) if i != j)  # of the covered actions


def comparisons():
    """Both orders of all pairs, each weighted with how often its first action wins."""
    wins = [uncovered_bandit().preferences[0, i, j] for i, j in PAIRS]
    return action_pairs(num_actions=4, pairs=PAIRS).with_column("weights", np.array(wins))


def experiment(*, weight: float = 10.0, eta: float = 1.0, round_steps: int = 100) -> Experiment:
    """SPAC, single time-scale, against the iterate before."""
    return _learn(
        name=f"spac_lambda_{weight:g}_eta_{eta:g}",
        algorithm=_held_to_iterate(partial(losses.spac, weight=weight, eta=eta), round_steps),
        round_steps=round_steps,
    )


def from_start(*, weight: float = 10.0, eta: float = 1.0, round_steps: int = 100) -> Experiment:
    """SPAC with the first policy as the anchor throughout: one round, however long."""
    return _learn(
        name=f"spac_from_start_eta_{eta:g}",
        algorithm=partial(
            online,
            loss=partial(losses.spac, weight=weight, eta=eta),
            sample_from=({"initial": 1.0},),
            reference="initial",
            **_EXACT,
        ),
        round_steps=round_steps,
    )


def linear(*, weight: float = 10.0, eta: float = 1.0, round_steps: int = 100) -> Experiment:
    """The same with own samples pushed down without a log-sigmoid: a loss without a minimum."""
    return _learn(
        name=f"spac_linear_eta_{eta:g}",
        algorithm=_held_to_iterate(partial(losses.spac_linear, weight=weight, eta=eta), round_steps),
        round_steps=round_steps,
    )


def dpo(*, eta: float = 1.0, round_steps: int = 100) -> Experiment:
    """DPO against the iterate before: SPAC with nothing to hold own samples."""
    return _learn(
        name=f"dpo_eta_{eta:g}",
        algorithm=partial(
            offline,
            loss=partial(losses.dpo, beta=1 / eta),
            optimizer=optimizer,
            reference="previous",
            policies={"previous": partial(copied, every=round_steps)},
        ),
        round_steps=round_steps,
    )


def dpo_from_start(*, eta: float = 1.0, round_steps: int = 100) -> Experiment:
    """DPO as it is, against the first policy."""
    return _learn(
        name=f"dpo_from_start_eta_{eta:g}",
        algorithm=partial(
            offline, loss=partial(losses.dpo, beta=1 / eta), optimizer=optimizer, reference="initial"
        ),
        round_steps=round_steps,
    )


def two_timescales(
    *, weight: float = 10.0, eta: float = 0.5, num_steps: int = 400, critic_steps: int = 10
) -> Experiment:
    """A critic in [0, 1] moves ten steps for each step pi exp(eta f) of the policy: 400 rounds."""
    return _learn(
        name=f"spac_two_timescales_lambda_{weight:g}",
        algorithm=partial(
            spac,
            optimizer=optimizer,
            critic=partial(reward_table, prompts=1, vocab=4),
            critic_optimizer=partial(optimizer, learning_rate=0.3),
            weight=weight,
            eta=eta,
            scale=3.0,
            critic_steps=critic_steps,
            max_tokens=1,
            exact=True,
            mirror=True,
        ),
        round_steps=num_steps // 4,
        rounds=4,
    )


def sweep_methods(*, eta: float = 0.3) -> list[Experiment]:
    """With and without own samples, against the iterate and against the start."""
    return [experiment(eta=eta), dpo(eta=eta), from_start(eta=eta), dpo_from_start(eta=eta), linear(eta=eta)]


def optimizer(*, learning_rate: float = 0.1):
    """Adam, unclipped: a round is to end at its minimum."""
    return adamw(schedule=partial(constant, value=learning_rate), clip_norm=None)


_EXACT: dict[str, Any] = {"optimizer": optimizer, "max_tokens": 1, "hybrid": True, "exact": True}


def _held_to_iterate(loss: Callable[..., Any], round_steps: int) -> Callable[..., Any]:
    return partial(
        online,
        loss=loss,
        sample_from=({"previous": 1.0},),
        reference="previous",
        policies={"previous": partial(copied, every=round_steps)},
        **_EXACT,
    )


def _learn(*, name: str, algorithm: Callable[..., Any], round_steps: int, rounds: int = ROUNDS) -> Experiment:
    return Experiment(
        name=name,
        policy=partial(tabular, prompts=1, vocab=4, initial=((0.0,) * 4,)),
        tokenizer=partial(actions_tokenizer, num_actions=4),
        stages=(
            Stage(
                name="game",
                algorithm=algorithm,
                train=comparisons,
                num_steps=rounds * round_steps,
                batch_size=len(PAIRS),
                prompt_buckets=(1,),
                response_buckets=(1,),
                evaluators=(partial(bandit_policy, environment=uncovered_bandit),),
                evaluators_every=round_steps,
                checkpoint_every=rounds * round_steps,
            ),
        ),
        log_every=round_steps,
        arxiv=("2406.04274",),
    )
