"""A two-stage experiment that trains in seconds, for tests of the loop.

Run       jaxpref train tests/training/tiny.py
"""

from functools import partial

import jax

from jaxpref import losses
from jaxpref.algorithms import offline, sft
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data.text.synthetic import (
    arithmetic_demonstrations,
    arithmetic_pairs,
    arithmetic_tokenizer,
    check_arithmetic,
)
from jaxpref.evals import generation, reward_accuracy
from jaxpref.experiment import Experiment, MeshShape, Stage
from jaxpref.models.sizes import tiny
from jaxpref.policies.transformer import transformer


def exploding_dpo(
    chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps, *, threshold: float
):
    """DPO that turns NaN as soon as its margin leaves a band: a stand-in for a diverging run."""
    values = losses.dpo(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    margins = chosen_logps - reference_chosen_logps
    return values / (abs(margins) < threshold) * (abs(margins) < threshold)


def experiment(
    *,
    steps: int = 6,
    batch_size: int = 8,
    learning_rate: float = 1e-2,
    vocab: int = 24,
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    evaluators: bool = True,
    buckets: bool = False,
    explode_at: float | None = None,
    checkpoint_every: int = 2,
    microbatches: int = 1,
) -> Experiment:
    held_out = partial(arithmetic_pairs, num_examples=16, part="held_out")
    optimizer = partial(adamw, schedule=partial(constant, value=learning_rate))
    answers = partial(generation, records=held_out, checker=check_arithmetic, max_tokens=4, num_prompts=8)
    accuracy = partial(reward_accuracy, records=held_out, batch_size=8)
    loss = losses.dpo if explode_at is None else partial(exploding_dpo, threshold=explode_at)
    return Experiment(
        name="tiny",
        policy=partial(
            transformer,
            sizes=partial(tiny, vocab=vocab, embed=16, layers=2, heads=2, kv_heads=2, mlp=32),
            eos_id=2,
        ),
        tokenizer=arithmetic_tokenizer,
        stages=(
            Stage(
                name="sft",
                algorithm=partial(sft, optimizer=optimizer),
                train=partial(arithmetic_demonstrations, num_examples=64),
                num_steps=steps,
                batch_size=batch_size,
                evaluators=(answers,) if evaluators else (),
                evaluate_every=3,
                checkpoint_every=checkpoint_every,
            ),
            Stage(
                name="dpo",
                algorithm=partial(offline, loss=loss, optimizer=optimizer, microbatches=microbatches),
                train=partial(arithmetic_pairs, num_examples=64),
                evaluation=held_out,
                num_steps=steps,
                batch_size=batch_size,
                evaluators=(answers, accuracy) if evaluators else (),
                evaluate_every=3,
                checkpoint_every=checkpoint_every,
                prompt_buckets=(7, 8) if buckets else (),
                response_buckets=(9, 16) if buckets else (),
            ),
        ),
        mesh=MeshShape(data, fsdp, tensor),
        log_every=2,
        best_metric=None,
        arxiv=("2305.18290",),
    )


def weights_of_another_vocabulary():
    """Params of the tiny model with twelve ids too many."""
    sizes = tiny(vocab=36, embed=16, layers=2, heads=2, kv_heads=2, mlp=32)
    return jax.device_get(transformer(sizes=sizes, eos_id=2).init(jax.random.key(0)))


def sweep() -> list[Experiment]:
    return [experiment(steps=2, evaluators=False, learning_rate=rate) for rate in (1e-3, 1e-2)]
