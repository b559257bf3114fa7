"""A cycle of preferences, which no reward can express and two kinds of preference model can.

Rock, paper, scissors with `num_items` items on a circle: each beats the ones that follow it. A Bradley-Terry
reward gives every item one number, so round a cycle it is wrong at least once; its best loss is log 2, where
it says nothing. The general preference model embeds a response in a plane of rotations and compares by a skew
form. A model that reads both responses at once, in both orders, can also do it, at k (k - 1) forward passes
instead of k.

Embeddings are not normalised here, as in the released training code. On the unit circle the loss has a local
minimum where all embeddings agree (log 2, nothing learnt), and `normalize=true` ends there.

Paper     Zhang et al. (2024), arXiv:2410.02197 (general preference model; the cycle of its introduction).
Run       jaxpref train experiments/gpm_cycles.py
Change    num_items=5 temperature=1.0 normalize=true stages.preferences.num_steps=1000
Ablation  jaxpref sweep experiments/gpm_cycles.py:sweep_models
Try       jaxpref train experiments/gpm_cycles.py --smoke
Cost      20 CPU seconds each (the sweep: 56).
Expect    3 items, accuracy over all pairs (loss, nats): general preference model 1.0 (1.9e-9), pairwise 1.0
          (6.3e-6), Bradley-Terry 0.67 by margins of 0.000 (0.6931 = log 2). 5 items: the first again 1.0
          (8.5e-9).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxpref import losses
from jaxpref.algorithms import offline
from jaxpref.algorithms.optimizers import adamw, warmup_cosine
from jaxpref.data.text.cycles import cyclic_pairs, items_tokenizer
from jaxpref.evals import reward_accuracy
from jaxpref.experiment import Experiment, Stage
from jaxpref.models.sizes import tiny
from jaxpref.policies.comparing import comparing
from jaxpref.policies.transformer import transformer


def experiment(
    *,
    num_items: int = 3,
    temperature: float = 0.1,
    normalize: bool = False,
    num_steps: int = 300,
    seed: int = 0,
) -> Experiment:
    """The general preference model."""
    return _fit(
        name="gpm_cycles",
        policy=partial(_policy, outputs=2),
        loss=partial(losses.general_preference, temperature=temperature, normalize=normalize),
        num_items=num_items,
        num_steps=num_steps,
        seed=seed,
    )


def bradley_terry(*, num_items: int = 3, num_steps: int = 300, seed: int = 0) -> Experiment:
    """One reward for each response: the model that cannot."""
    return _fit(
        name="bt_cycles",
        policy=partial(_policy, outputs=1),
        loss=losses.bradley_terry,
        num_items=num_items,
        num_steps=num_steps,
        seed=seed,
    )


def pairwise(*, num_items: int = 3, num_steps: int = 300, seed: int = 0) -> Experiment:
    """A reader of both responses, in both orders."""
    return _fit(
        name="pair_cycles",
        policy=partial(comparing, policy=partial(_policy, outputs=1), separator_id=2),
        loss=losses.pair_preference,
        num_items=num_items,
        num_steps=num_steps,
        seed=seed,
    )


def sweep_models(*, num_items: int = 3) -> list[Experiment]:
    """All three, on one page."""
    return [build(num_items=num_items) for build in (bradley_terry, experiment, pairwise)]


def _policy(*, outputs: int):
    return transformer(
        sizes=tiny(vocab=32, embed=32, layers=2, heads=2, kv_heads=2, mlp=64), outputs=outputs, eos_id=2
    )


def _fit(
    *,
    name: str,
    policy: Callable[..., Any],
    loss: Callable[..., Any],
    num_items: int,
    num_steps: int,
    seed: int,
) -> Experiment:
    pairs = partial(cyclic_pairs, num_items=num_items)
    return Experiment(
        name=name,
        policy=policy,
        tokenizer=items_tokenizer,
        stages=(
            Stage(
                name="preferences",
                algorithm=partial(
                    offline,
                    loss=loss,
                    optimizer=partial(
                        adamw,
                        schedule=partial(warmup_cosine, peak=3e-3, warmup_steps=10, num_steps=num_steps),
                    ),
                    reference=None,
                ),
                train=pairs,
                evaluation=pairs,  # all pairs there are: the question is what a model can express
                evaluators=(partial(reward_accuracy, records=pairs, batch_size=16, name="all pairs"),),
                num_steps=num_steps,
                batch_size=num_items * (num_items // 2),
                evaluate_every=50,
            ),
        ),
        seed=seed,
        arxiv=("2410.02197",),
    )
