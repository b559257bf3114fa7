"""A sweep of three tiny runs on sums, and a tournament between them in which the closer answer wins.

Run       jaxpref sweep tests/evals/duel.py:sweep
"""

import dataclasses
from functools import partial

from jaxpref import losses
from jaxpref.algorithms import offline
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data.synthetic import arithmetic_pairs, arithmetic_tokenizer
from jaxpref.evals import sampled_kl
from jaxpref.experiment import Experiment, Stage, Tournament
from jaxpref.judges import Judge, ordering_judge, text_scorer
from jaxpref.models.sizes import tiny
from jaxpref.policies.transformer import transformer


def shorter(prompt: str, response: str) -> float:
    """A rule that all may understand: fewer characters are better."""
    return -len(response)


def shorter_wins() -> Judge:
    return ordering_judge(text_scorer(shorter, arithmetic_tokenizer()))


def experiment(*, learning_rate: float = 1e-2) -> Experiment:
    pairs = partial(arithmetic_pairs, num_examples=32)
    return Experiment(
        name="duel",
        policy=partial(
            transformer,
            sizes=partial(tiny, vocab=24, embed=8, layers=1, heads=1, kv_heads=1, mlp=8),
            eos_id=2,
        ),
        tokenizer=arithmetic_tokenizer,
        stages=(
            Stage(
                name="dpo",
                algorithm=partial(
                    offline,
                    loss=losses.dpo,
                    optimizer=partial(adamw, schedule=partial(constant, value=learning_rate)),
                ),
                train=pairs,
                evaluators=(partial(sampled_kl, records=pairs, max_tokens=3, num_prompts=8, batch_size=8),),
                evaluators_every=1,
                num_steps=2,
                batch_size=8,
            ),
        ),
    )


def sweep() -> list[Experiment]:
    return [
        dataclasses.replace(experiment(learning_rate=rate), name=name)
        for name, rate in (("slow", 1e-4), ("fast", 3e-2))
    ]


def tournament(*, num_prompts: int = 6) -> Tournament:
    return Tournament(
        records=partial(arithmetic_pairs, num_examples=10, part="held_out"),
        judge=shorter_wins,
        compiled=False,
        max_tokens=3,
        num_prompts=num_prompts,
        num_samples=2,
        batch_size=4,
    )
