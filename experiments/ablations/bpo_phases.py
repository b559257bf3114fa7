"""BPO phases at equal strength: more phases, each at a higher beta, with the same ideal end.

With labels of a Bradley-Terry rater and every phase solved, F phases at beta end at pi_ref exp(F r / beta),
the offline optimum at beta / F (tests/algorithms/test_bpo.py, by exact expectations). So at beta = F *
strength they differ in nothing but whose samples the pairs are. The checker here is stricter than such a
rater and the steps are few, so KLs match only roughly: both are reported.

Claim     fresh samples spend the same KL better: a higher checker accuracy from more phases.
Paper     Online BPO (2024), arXiv:2406.12168; the equal-strength comparison is ours.
Run       jaxpref train experiments/ablations/bpo_phases.py
          jaxpref sweep experiments/ablations/bpo_phases.py:sweep_phases
Change    phases=3 strength=1
Cost      as experiments/bpo_small.py, for each run.
Measured  2026-11-21; random keys have been derived differently since then (DESIGN.md, 58), so seeds give
          other numbers.
Expect    one run each, 120 steps, 800 held-out prompts (KL: 400). F = 1, beta 0.5: accuracy 0.641 [0.607,
          0.674] at KL 0.678 [0.548, 0.808]. F = 2, beta 1: 0.674 [0.640, 0.705] at 0.382 [0.315, 0.448].
          Half the KL for no less accuracy; the accuracies themselves are not told apart. F = 4 has not been
          run. Far from solved phases, so the KLs are not those of the law.
"""

from functools import partial

import bpo_small

from jaxpref import losses
from jaxpref.experiment import Experiment, Tournament


def experiment(*, phases: int = 2, strength: float = 0.5, prompts_seed: int = 0) -> Experiment:
    """`strength` is beta / phases."""
    return bpo_small.experiment(
        name=f"bpo_phases F={phases}",
        loss=partial(losses.dpo, beta=strength * phases),
        phases=phases,
        prompts_seed=prompts_seed,
    )


def sweep_phases() -> list[Experiment]:
    return [experiment(phases=phases) for phases in (1, 2, 4)]


def tournament() -> Tournament:
    """The checker is the judge."""
    return bpo_small.tournament()
