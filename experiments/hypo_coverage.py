"""What pairs do not cover: DPO says nothing about it, HyPO does, exactly.

Three responses with reference (0.4, 0.4, 0.2). The first beats the second with probability 0.8, and the third
is in no comparison. DPO is at its minimum wherever the log-ratios of the first two differ by logit(0.8) /
beta, whatever the third has, so the parameters decide: in a table its logit never moves; where it has a
feature of the first (`shared`, its weight), it takes what DPO gives to that feature, and more as beta falls,
up to all there is. HyPO adds kl_weight KL(pi || reference) on samples of the policy, and has one optimum,
the same for all parameters that can express it. There the third response's log-ratio is that very KL.

Sharing can also be right. `extrapolation` is log-linear with one direction to move in: trained on the first
two of three responses, it raises the third, which was never seen and is the best of all, while the likelihood
of both seen ones falls, the chosen one's too. Here HyPO's price is paid for nothing.

All gradients are exact: in place of samples, every pair of them with its probability.

Paper     Song et al. (2024), arXiv:2406.01462 (the coverage argument and the example of extrapolation; the
          numbers are ours).
Run       jaxpref train experiments/hypo_coverage.py
          jaxpref train experiments/hypo_coverage.py:extrapolation
Change    kl_weight=0.1 shared=2 beta=0.1 probability=0.9
Ablation  jaxpref sweep experiments/hypo_coverage.py:sweep_kl_weight
          jaxpref sweep experiments/hypo_coverage.py:sweep_beta
          jaxpref sweep experiments/hypo_coverage.py:sweep_extrapolation
Try       jaxpref train experiments/hypo_coverage.py --smoke
Cost      About 20 CPU seconds each.
Expect    What is known in closed form, to all digits shown. KL and log-ratios in nats, p(3) uncovered:
          table, kl_weight 0       p .6667 .1667 .1667   KL .1642   log-ratio(3) -.1823
          kl_weight 0.01           p .6129 .1549 .2322   KL .1493   log-ratio(3) .1493
          kl_weight 0.1            p .6041 .1672 .2286   KL .1338   log-ratio(3) .1338
          kl_weight 1              p .5324 .2576 .2101   KL .0491   log-ratio(3) .0491
          shared=2, kl_weight 0    p .4444 .1111 .4444   KL .2594 (0.01: as in the table)
          shared=2, beta=0.1       p(3) .9980, KL 1.594 by DPO;
                                   kl_weight 0.1: p(3) .3333, KL .5108
          extrapolation            beta 1: p .0476 .1905 .7619, beta 0.5: .0037 .0586 .9377, both seen ones
                                   below 1/3; kl_weight 0.01: p(3) .7562, 0.1: .7023
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxpref import losses
from jaxpref.algorithms import online
from jaxpref.algorithms.optimizers import adamw, warmup_cosine
from jaxpref.data.loader import Loader
from jaxpref.data.text.actions import action_pairs, actions_tokenizer
from jaxpref.evals.base import Context, Estimate, Evaluation
from jaxpref.experiment import Experiment, Stage
from jaxpref.policies.tabular import enumerated, tabular
from jaxpref.types import Prompts

REFERENCE = (0.4, 0.4, 0.2)


def experiment(
    *,
    kl_weight: float = 0.1,
    beta: float = 1.0,
    shared: float = 0.0,
    probability: float = 0.8,
    num_steps: int = 500,
) -> Experiment:
    """The gap of coverage. kl_weight=0 is DPO. `shared`: how much the uncovered response has of the chosen
    one's feature; every policy can still be expressed."""
    features = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (shared, 0.0, 1.0))
    first, second, third = map(math.log, REFERENCE)
    return _compare(
        name="hypo_coverage",
        # The weights at which the policy is the reference.
        policy=partial(
            tabular, prompts=1, vocab=3, features=features, initial=(first, second, third - shared * first)
        ),
        chosen=0,
        kl_weight=kl_weight,
        beta=beta,
        probability=probability,
        num_steps=num_steps,
    )


def extrapolation(
    *, kl_weight: float = 0.0, beta: float = 1.0, probability: float = 0.8, num_steps: int = 500
) -> Experiment:
    """Features (1, 0), (1/2, 1/2) and (0, 1), a uniform reference, and pairs in which the second wins."""
    features = ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))
    return _compare(
        name="hypo_extrapolation",
        policy=partial(tabular, prompts=1, vocab=3, features=features, initial=(0.0, 0.0)),
        chosen=1,
        kl_weight=kl_weight,
        beta=beta,
        probability=probability,
        num_steps=num_steps,
    )


def sweep_kl_weight(*, shared: float = 0.0) -> list[Experiment]:
    """From DPO (0) to next to no change; with shared=2 all but DPO end where they ended without."""
    return [experiment(kl_weight=weight, shared=shared) for weight in (0.0, 0.01, 0.1, 1.0)]


def sweep_beta(*, shared: float = 2.0) -> list[Experiment]:
    """DPO where the uncovered response shares a feature: its mass and the KL grow as beta falls, and with the
    KL of HyPO they do not."""
    return [
        experiment(beta=beta, kl_weight=weight, shared=shared)
        for weight in (0.0, 0.1)
        for beta in (1.0, 0.3, 0.1)
    ]


def sweep_extrapolation() -> list[Experiment]:
    """DPO and HyPO where the unseen response is the best one."""
    return [
        extrapolation(beta=beta, kl_weight=weight)
        for beta, weight in ((1.0, 0.0), (0.5, 0.0), (1.0, 0.01), (1.0, 0.1))
    ]


def table(context: Context, *, num_prompts: int = 1, name: str = "exactly") -> Evaluation:
    """Probabilities of the responses (from 1), their KL to the reference (nats) and the log-ratio of each."""
    del num_prompts
    batch = next(iter(Loader(action_pairs(), batch_size=1, seed=0, shuffle=False).evaluation_batches()))
    every = enumerated(context.policy, Prompts(batch.prompt_tokens, batch.prompt_mask))
    score = jax.jit(context.policy.token_logps)
    logps, reference = (
        np.asarray(context.fetch(score(params, every)), np.float64)[0, :, 0]
        for params in (context.params, context.member("initial"))
    )
    ratios = logps - reference
    values = {f"p({i + 1})": p for i, p in enumerate(np.exp(logps))}
    values |= {"KL": (np.exp(logps) * ratios).sum()}
    values |= {f"log-ratio({i + 1})": ratio for i, ratio in enumerate(ratios)}
    return Evaluation(name, {k: Estimate(float(v), float(v), float(v), 1, "") for k, v in values.items()})


def _compare(
    *,
    name: str,
    policy: Callable[..., Any],
    chosen: int,
    kl_weight: float,
    beta: float,
    probability: float,
    num_steps: int,
) -> Experiment:
    """Full batches of pairs of the first two responses, `chosen` winning with `probability`."""
    wins = round(10 * probability)
    if not 0 < wins < 10 or not math.isclose(wins, 10 * probability):
        raise ValueError(f"probability: expected 0.1, 0.2, ... or 0.9, got {probability}")
    pair = (chosen, 1 - chosen)
    pairs = partial(action_pairs, num_actions=3, pairs=(pair,) * wins + (pair[::-1],) * (10 - wins))
    return Experiment(
        name=name,
        policy=policy,
        tokenizer=partial(actions_tokenizer, num_actions=3),
        stages=(
            Stage(
                name="pairs",
                algorithm=partial(
                    online,
                    loss=partial(losses.hypo, beta=beta, kl_weight=kl_weight),
                    sample_from=({"policy": 1.0},) * 2,
                    hybrid=True,
                    exact=True,
                    max_tokens=1,
                    optimizer=partial(
                        adamw,
                        schedule=partial(warmup_cosine, peak=0.1, warmup_steps=0),
                    ),
                ),
                train=pairs,
                evaluators=(table,),
                num_steps=num_steps,
                batch_size=10,
                prompt_buckets=(1,),
                response_buckets=(1,),
                evaluate_every=num_steps,
                checkpoint_every=num_steps,
            ),
        ),
        log_every=100,
        arxiv=("2406.01462",),
    )
