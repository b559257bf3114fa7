"""TBD"""

from collections.abc import Callable
from functools import partial
from typing import Any

import _arithmetic as base
import numpy as np

from jaxpref import losses
from jaxpref.algorithms import offline, online
from jaxpref.data import Records
from jaxpref.data.synthetic import arithmetic_tokenizer
from jaxpref.evals import sampled_kl
from jaxpref.experiment import Experiment

STEPS = 300


def experiment(
    *,
    kl_weight: float = 0.01,
    beta: float = 0.1,
    num_steps: int = STEPS,
    peak: float = 3e-4,
    seed: int = 0,
) -> Experiment:
    """HyPO: the recorded pairs, and two unlabelled samples of the policy for each prompt."""
    return _after_sft(
        name="hypo_small",
        algorithm=partial(
            online,
            loss=partial(losses.hypo, beta=beta, kl_weight=kl_weight),
            draws=({"policy": 1.0},) * 2,
            hybrid=True,
            max_tokens=base.MAX_TOKENS,
            optimizer=partial(base.optimizer, peak=peak, num_steps=num_steps),
        ),
        num_steps=num_steps,
        seed=seed,
    )


def dpo(*, beta: float = 0.1, num_steps: int = STEPS, peak: float = 3e-4, seed: int = 0) -> Experiment:
    """DPO on the same pairs, from the same SFT."""
    return _after_sft(
        name="hypo_small_dpo",
        algorithm=partial(
            offline,
            loss=partial(losses.dpo, beta=beta),
            optimizer=partial(base.optimizer, peak=peak, num_steps=num_steps),
        ),
        num_steps=num_steps,
        seed=seed,
    )


def answer_slips(*, records: Callable[[], Records]) -> Records:
    """Pairs whose slip is in the answer: both responses have the same steps, and those are right."""
    table, tokenizer = records(), arithmetic_tokenizer()

    def steps(row: int, response: int) -> str:
        return tokenizer.decode(table.response(row, response).tolist()).partition(";")[0]

    kept = [row for row in range(len(table)) if steps(row, 0) == steps(row, 1)]
    return table.take(np.array(kept))


def _after_sft(*, name: str, algorithm: Callable[..., Any], num_steps: int, seed: int) -> Experiment:
    kl = partial(
        sampled_kl, records=base.held_out, max_tokens=base.MAX_TOKENS, num_prompts=400, batch_size=400
    )
    return Experiment(
        name=name,
        policy=base.policy,
        tokenizer=arithmetic_tokenizer,
        stages=(
            base.sft_stage(seed=seed),
            base.stage(
                name="preferences",
                algorithm=algorithm,
                train=partial(answer_slips, records=partial(base.problems, num_examples=20_000, seed=seed)),
                num_steps=num_steps,
                evaluation=base.held_out,
                evaluators=(base.answers(), base.reward_accuracies(), kl),
                evaluate_every=50,
                evaluators_every=50,
            ),
        ),
        seed=seed,
        arxiv=("2406.01462",),
    )
