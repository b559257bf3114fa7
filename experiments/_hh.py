"""What the Anthropic HH experiments share: supervised fine-tuning on chosen responses, then DPO on the pairs.

Data      Bai et al. (2022), arXiv:2204.05862.
Method    Rafailov et al. (2023), arXiv:2305.18290.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import optax

from jaxpref import losses
from jaxpref.algorithms import offline, sft
from jaxpref.data.prepare import chosen_only
from jaxpref.evals import generation, reward_accuracy
from jaxpref.experiment import Experiment, MeshShape, Stage

Optimizer = Callable[[], optax.GradientTransformation]


def sft_then_dpo(
    *,
    name: str,
    policy: Callable[..., Any],
    tokenizer: Callable[..., Any],
    weights: Callable[..., Any] | None,
    train: Callable[..., Any],
    held_out: Callable[..., Any],
    sft_optimizer: Optimizer,
    dpo_optimizer: Optimizer,
    sft_steps: int,
    dpo_steps: int,
    batch_size: int,
    microbatches: int,
    beta: float,
    evaluate_every: int,
    checkpoint_every: int,
    max_tokens: int,
    seed: int,
    mesh: MeshShape,
    held_out_pairs: int | None = None,
) -> Experiment:
    """Stages `sft` and `dpo`. Reward accuracy on held-out prompts is what is reported; a few greedy samples
    are kept to read. `held_out_pairs` bounds the evaluation (None: all)."""
    answers = partial(
        generation, records=held_out, max_tokens=max_tokens, num_prompts=8, batch_size=8, name="samples"
    )
    accuracy = partial(reward_accuracy, records=held_out, batch_size=batch_size, num_prompts=held_out_pairs)
    stage = partial(
        Stage, batch_size=batch_size, evaluate_every=evaluate_every, checkpoint_every=checkpoint_every
    )
    return Experiment(
        name=name,
        policy=policy,
        tokenizer=tokenizer,
        weights=weights,
        stages=(
            stage(
                name="sft",
                algorithm=partial(sft, optimizer=sft_optimizer, microbatches=microbatches),
                train=partial(chosen_only, records=train),
                evaluation=partial(chosen_only, records=held_out),
                evaluators=(answers,),
                num_steps=sft_steps,
            ),
            stage(
                name="dpo",
                algorithm=partial(
                    offline,
                    loss=partial(losses.dpo, beta=beta),
                    optimizer=dpo_optimizer,
                    reference="initial",
                    microbatches=microbatches,
                ),
                train=train,
                evaluation=held_out,
                evaluators=(answers, accuracy),
                num_steps=dpo_steps,
            ),
        ),
        mesh=mesh,
        seed=seed,
        arxiv=("2305.18290", "2204.05862"),
    )
