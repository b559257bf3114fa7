"""What the small online experiments share: worked arithmetic, a model that imitates slips, a checker.

The base is the one of `quickstart.py`: supervised fine-tuning on worked answers of which a share is wrong
leaves a policy that is right about half the time, so there is something to learn from its own samples.
"""

from functools import partial

from jaxpref.algorithms import sft
from jaxpref.algorithms.optimizers import adamw, warmup_cosine
from jaxpref.data.text.synthetic import (
    arithmetic_demonstrations,
    arithmetic_pairs,
    arithmetic_tokenizer,
    check_arithmetic,
)
from jaxpref.evals import generation, reward_accuracy
from jaxpref.experiment import Stage
from jaxpref.judges import bradley_terry_judge, ordering_judge, text_scorer
from jaxpref.models.sizes import tiny
from jaxpref.policies.transformer import transformer

MAX_TOKENS = 12  # of a worked answer, EOS included
EOS_ID = 2

policy = partial(
    transformer,
    sizes=partial(tiny, vocab=24, embed=96, layers=3, heads=4, kv_heads=4, mlp=256),
    eos_id=EOS_ID,
)
stage = partial(Stage, batch_size=64, prompt_buckets=(7,), response_buckets=(MAX_TOKENS,))
problems = partial(arithmetic_pairs, num_digits=2, operations="+-")
held_out = partial(problems, num_examples=400, part="held_out")


def checker():
    """1 for a response whose every step is right, else 0."""
    return text_scorer(check_arithmetic, arithmetic_tokenizer())


def right_wins():
    """The right response beats the wrong one for sure; two of a kind are a tie."""
    return ordering_judge(checker())


def right_mostly_wins(*, temperature: float = 0.5):
    """A rater of the Bradley-Terry kind: sigmoid((check_i - check_j) / temperature)."""
    return bradley_terry_judge(checker(), temperature=temperature)


def optimizer(*, peak: float, warmup_steps: int = 20):
    """AdamW with warm-up and cosine decay to the end of the stage."""
    return adamw(schedule=partial(warmup_cosine, peak=peak, warmup_steps=warmup_steps))


def held_out_demonstrations():
    """The right answers to the held-out prompts."""
    return held_out().only(0)


def answers(*, num_prompts: int = 400):
    """Sampled answers to held-out prompts, checked."""
    return partial(
        generation,
        records=held_out,
        checker=check_arithmetic,
        max_tokens=MAX_TOKENS,
        temperature=1.0,
        num_prompts=num_prompts,
        batch_size=num_prompts,
    )


def reward_accuracies():
    """Implicit rewards on held-out pairs."""
    return partial(reward_accuracy, records=held_out, batch_size=200)


def sft_stage(
    *, num_steps: int = 500, wrong_fraction: float = 0.4, num_examples: int = 20_000, seed: int = 0
):
    """Imitation of worked answers, a share of them with slips."""
    return stage(
        name="sft",
        algorithm=partial(sft, optimizer=partial(optimizer, peak=3e-3, warmup_steps=50)),
        train=partial(
            arithmetic_demonstrations,
            num_examples=num_examples,
            wrong_fraction=wrong_fraction,
            num_digits=2,
            operations="+-",
            seed=seed,
        ),
        num_steps=num_steps,
        evaluation=held_out_demonstrations,
        evaluators=(answers(),),
        evaluate_every=250,
    )
