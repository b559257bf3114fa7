"""A sweep of two runs on a table of three responses, and a tournament between them.

Run       jaxpref sweep tests/evals/duel.py:sweep
"""

import dataclasses
import functools
from functools import partial

from jaxpref import losses
from jaxpref.algorithms import offline
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data.text.actions import action_pairs, actions_tokenizer
from jaxpref.environments import rock_paper_scissors
from jaxpref.evals import game_exploitability, sampled_kl
from jaxpref.experiment import Experiment, Stage, Tournament
from jaxpref.judges import Judge, rule_judge
from jaxpref.policies.base import Policy
from jaxpref.policies.tabular import tabular


@functools.cache
def policy() -> Policy:
    """One for all runs, so that its functions compile once."""
    return tabular(prompts=3, vocab=3, initial=[[0.0, 0.5, 1.0]] * 3)


def larger_wins() -> Judge:
    return rule_judge(lambda completions: completions.response_tokens[..., 0])


def experiment(*, learning_rate: float = 1.0) -> Experiment:
    pairs = partial(action_pairs, num_prompts=3, num_actions=3, pairs=((1, 0), (2, 0)))
    drawing = partial(sampled_kl, records=pairs, max_tokens=1, batch_size=8)
    return Experiment(
        name="duel",
        policy=policy,
        tokenizer=partial(actions_tokenizer, num_actions=3),
        stages=(
            Stage(
                name="dpo",
                algorithm=partial(
                    offline,
                    loss=partial(losses.dpo, beta=1.0),
                    optimizer=partial(adamw, schedule=partial(constant, value=learning_rate)),
                ),
                train=pairs,
                evaluators=(drawing, partial(game_exploitability, game=rock_paper_scissors)),
                evaluators_every=1,
                num_steps=2,
                batch_size=8,
                response_buckets=(1,),
            ),
        ),
    )


def sweep() -> list[Experiment]:
    return [
        dataclasses.replace(experiment(learning_rate=rate), name=name)
        for name, rate in (("slow", 1e-4), ("fast", 3.0))
    ]


def tournament(*, num_prompts: int = 6) -> Tournament:
    return Tournament(
        records=partial(action_pairs, num_prompts=3, num_actions=3),
        judge=larger_wins,
        max_tokens=1,
        num_prompts=num_prompts,
        num_samples=4,
        batch_size=8,
    )
