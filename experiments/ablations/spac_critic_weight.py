"""Claim: SPAC's lambda may be large. Small, it is too cautious, also about responses that the data defend.

Lambda weighs explaining the pairs against thinking little of own samples. The toy of `spac_toy.py`, whose
pairs are without noise: the finite-sample side of the trade, where a large lambda trusts the data too much,
cannot show here.

Paper     Ji et al. (2024), arXiv:2406.04274 (the lambda of its experiments is not known to us; toy ours).
Run       jaxpref sweep experiments/ablations/spac_critic_weight.py:sweep_weights
          jaxpref sweep experiments/ablations/spac_critic_weight.py:sweep_critic_weights
          jaxpref train experiments/ablations/spac_critic_weight.py weight=3
Change    eta=0.3 round_steps=300
Cost      1 minute each on 2 CPU cores.
Expect    Expected reward after six rounds of 100 steps, eta 1 (best 0.9; exact, so no interval): lambda 1
          0.7737, 10 0.8977, 100 0.8996; with exact minima 0.7738, 0.8978 and 0.8996. Uncovered mass 3e-4,
          3e-5 and 1e-5.
          With a critic of its own, 400 rounds, eta 0.5: the last policy 0.8434, 0.9000 and 0.9000, the
          mixture of all 0.8366, 0.8947 and 0.8950 (critic solved in each round: 0.8355, 0.8931 and 0.8935).
"""

from spac_toy import experiment as spac
from spac_toy import two_timescales

from jaxpref.experiment import Experiment

WEIGHTS = (1.0, 10.0, 100.0)


def experiment(*, weight: float = 10.0, eta: float = 1.0, round_steps: int = 100) -> Experiment:
    return spac(weight=weight, eta=eta, round_steps=round_steps)


def sweep_weights(*, eta: float = 1.0) -> list[Experiment]:
    """One policy, which is its own critic."""
    return [spac(weight=weight, eta=eta) for weight in WEIGHTS]


def sweep_critic_weights(*, num_steps: int = 400) -> list[Experiment]:
    """The critic as a player of its own."""
    return [two_timescales(weight=weight, num_steps=num_steps) for weight in WEIGHTS]
