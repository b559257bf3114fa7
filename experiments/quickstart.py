"""Arithmetic with worked steps: a model that imitates slips learns to prefer right answers.

Everything is generated here and every answer can be checked. Supervised fine-tuning imitates worked
answers of which a share is wrong; DPO then learns from pairs (right, slip). The held-out prompts are new
to both stages, and a checker decides whether every step and the answer of a sample are right.

The default beta is 1: with little to hold it, DPO widens the margin by making both responses of a pair
less likely (likelihood displacement). At beta 0.1 sampled answers get worse while reward accuracy rises.

Paper     Rafailov et al. (2023), arXiv:2305.18290 (the method; the task is ours).
Run       jaxpref train experiments/quickstart.py
Change    beta=0.3 wrong_fraction=0.5 stages.dpo.num_steps=100
Ablation  jaxpref sweep experiments/quickstart.py:sweep_beta
Try       jaxpref train experiments/quickstart.py --smoke
Cost      2 minutes on 2 CPU cores.
Expect    400 held-out prompts, 95 % intervals. Checker accuracy is the share of sampled answers that are
          right; the win rate is against samples from when DPO began.
                     checker accuracy of SFT, then DPO   win rate              reward accuracy
            seed 0   0.512  0.785 [0.742, 0.822]         0.604 [0.572, 0.634]  0.985 [0.968, 0.993]
            seed 1   0.605  0.873 [0.836, 0.902]         0.644 [0.615, 0.672]  0.998 [0.986, 1.000]
            seed 2   0.542  0.838 [0.798, 0.870]         0.652 [0.623, 0.682]  0.998 [0.986, 1.000]
            beta=0.1 0.512  0.367 [0.322, 0.416]         0.395 [0.361, 0.429]  0.882 [0.847, 0.910]
"""

from functools import partial

from jaxpref import losses
from jaxpref.algorithms import offline, sft
from jaxpref.algorithms.optimizers import adamw, warmup_cosine
from jaxpref.data.text.synthetic import (
    arithmetic_demonstrations,
    arithmetic_pairs,
    arithmetic_tokenizer,
    check_arithmetic,
)
from jaxpref.evals import generation, reward_accuracy
from jaxpref.experiment import Experiment, Stage
from jaxpref.models.sizes import tiny
from jaxpref.policies.transformer import transformer


def experiment(
    *,
    beta: float = 1.0,
    wrong_fraction: float = 0.4,
    sft_steps: int = 500,
    dpo_steps: int = 300,
    num_examples: int = 20_000,
    seed: int = 0,
) -> Experiment:
    problems = partial(arithmetic_pairs, num_digits=2, operations="+-")
    held_out = partial(problems, num_examples=400, part="held_out")
    answers = partial(
        generation,
        records=held_out,
        checker=check_arithmetic,
        max_tokens=12,
        temperature=1.0,
        num_prompts=400,
        batch_size=400,
    )
    stage = partial(Stage, batch_size=64, prompt_buckets=(7,), response_buckets=(12,))
    return Experiment(
        name="quickstart",
        policy=partial(
            transformer,
            sizes=partial(tiny, vocab=24, embed=96, layers=3, heads=4, kv_heads=4, mlp=256),
            eos_id=2,
        ),
        tokenizer=arithmetic_tokenizer,
        stages=(
            stage(
                name="sft",
                algorithm=partial(
                    sft,
                    optimizer=partial(
                        adamw,
                        schedule=partial(warmup_cosine, peak=3e-3, warmup_steps=50),
                    ),
                ),
                train=partial(
                    arithmetic_demonstrations,
                    num_examples=num_examples,
                    wrong_fraction=wrong_fraction,
                    num_digits=2,
                    operations="+-",
                    seed=seed,
                ),
                num_steps=sft_steps,
                evaluation=partial(held_out_demonstrations, held_out=held_out),
                evaluators=(answers,),
                evaluate_every=250,
            ),
            stage(
                name="dpo",
                algorithm=partial(
                    offline,
                    loss=partial(losses.dpo, beta=beta),
                    optimizer=partial(
                        adamw,
                        schedule=partial(warmup_cosine, peak=3e-4, warmup_steps=20),
                    ),
                    reference="initial",
                ),
                train=partial(problems, num_examples=num_examples, seed=seed),
                num_steps=dpo_steps,
                evaluation=held_out,
                evaluators=(answers, partial(reward_accuracy, records=held_out, batch_size=200)),
                evaluate_every=100,
            ),
        ),
        seed=seed,
        arxiv=("2305.18290",),
    )


def held_out_demonstrations(*, held_out):
    """The right answers to the held-out prompts."""
    return held_out().only(0)


def sweep_beta(*, seed: int = 0) -> list[Experiment]:
    return [experiment(beta=beta, seed=seed) for beta in (0.03, 0.1, 0.3, 1.0)]
