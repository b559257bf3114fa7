"""Claim: HyPO's reverse KL is lower than DPO's at equal held-out reward accuracy, and kl_weight sets it.

The task of `hypo_small.py`: pairs whose slips are all in the answer, held-out pairs with slips of all kinds,
beta 0.1, where DPO lets likelihood go. Zero is DPO itself, without samples. Every run starts from the same
supervised fine-tuning.

Paper     Song et al. (2024), arXiv:2406.01462 (its figures show HyPO's KL below DPO's; no number of them is
          compared here).
Run       jaxpref sweep experiments/ablations/hypo_kl_weight.py:sweep_kl_weight
          jaxpref train experiments/ablations/hypo_kl_weight.py kl_weight=0.03
Change    num_steps=100 beta=0.3
Cost      TBD
Expect    TBD
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


def sweep_kl_weight(*, beta: float = 0.1, num_steps: int = STEPS) -> list[Experiment]:
    return [
        experiment(kl_weight=weight, beta=beta, num_steps=num_steps) for weight in (0.0, 0.003, 0.01, 0.03)
    ]
