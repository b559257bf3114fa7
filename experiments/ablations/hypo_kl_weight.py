"""Claim: HyPO's reverse KL is lower than DPO's at equal held-out reward accuracy, and kl_weight sets it.

The task of `hypo_small.py`: pairs whose slips are all in the answer, held-out pairs with slips of all kinds,
beta 0.1, where DPO lets likelihood go. Zero is DPO itself, without samples. Every run starts from the same
supervised fine-tuning.

Paper     Song et al. (2024), arXiv:2406.01462 (its figures show HyPO's KL below DPO's; no number of them is
          compared here).
Run       jaxpref sweep experiments/ablations/hypo_kl_weight.py:sweep_kl_weight
          jaxpref train experiments/ablations/hypo_kl_weight.py kl_weight=0.03
Change    num_steps=100 beta=0.3
Cost      CPU minutes with SFT: 4 (weight 0), about 6 (others).
Measured  2026-11-21; random keys have been derived differently since then (DESIGN.md, 58), so seeds give
          other numbers.
Expect    One seed, 400 held-out prompts, 95 % intervals; KL in nats to the model after SFT, from samples.
          weight  step   KL                   reward accuracy      right answers
          0       100    2.60 [2.31, 2.89]    .690 [.645, .735]    .195 [.159, .237]
                  300    2.76 [2.49, 3.03]    .675 [.629, .721]    .207 [.171, .250]
          0.01    100    0.55 [0.43, 0.66]    .818 [.780, .855]    .570 [.521, .618]
                  300    0.54 [0.44, 0.64]    .853 [.818, .887]    .652 [.605, .698]
          0.03    100    0.35 [0.27, 0.43]    .815 [.777, .853]    .593 [.544, .640]
                  300    0.30 [0.24, 0.36]    .868 [.834, .901]    .680 [.633, .724]
"""

from hypo_small import STEPS, dpo
from hypo_small import experiment as hypo

from jaxpref.experiment import Experiment


def experiment(
    *, kl_weight: float = 0.01, beta: float = 0.1, num_steps: int = STEPS, seed: int = 0
) -> Experiment:
    """HyPO, or DPO where the weight is 0."""
    if kl_weight == 0:
        return dpo(beta=beta, num_steps=num_steps, seed=seed)
    return hypo(kl_weight=kl_weight, beta=beta, num_steps=num_steps, seed=seed)


def sweep_kl_weight(*, beta: float = 0.1, num_steps: int = STEPS, seed: int = 0) -> list[Experiment]:
    shared = {"beta": beta, "num_steps": num_steps, "seed": seed}
    return [experiment(kl_weight=weight, **shared) for weight in (0.0, 0.01, 0.03)]
