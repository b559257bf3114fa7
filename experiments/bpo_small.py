"""BPO on arithmetic: does it pay to sample again, and to hold the policy to the one that sampled?

A small model that imitates slips draws two answers to a problem, a checker says which is right, and DPO
learns from the pair. `phases` says how often the behaviour policy, which draws, is renewed, and in BPO it
is also the anchor of the loss. All runs have 120 steps of 64 prompts, one seed of the SFT policy and one
optimizer:

  offline        F = 1: all pairs are drawn by the SFT policy, the anchor. The base to beat
  extra_phase    F = 2: the policy of half of the steps draws for the other half, and is its anchor
  on_policy      F = 120: the current policy draws and is the anchor; every step begins at a margin of 0
  online_dpo     the current policy draws, the SFT policy stays the anchor (OAIF)
  ipo, slic      F = 2 with these losses

BPO has no fixed price on the KL to the SFT policy (with a Bradley-Terry rater F solved phases end at pi_ref
exp(F r / beta)), so runs are compared at equal KL: accuracy stands beside KL, and the offline base has two
betas.

Paper     Online BPO (2024), arXiv:2406.12168; online DPO: arXiv:2402.04792. The task is ours.
Run       jaxpref train experiments/bpo_small.py
          jaxpref train experiments/bpo_small.py:offline beta=0.5   (or another name of the list)
Change    phases=4 cycles=2 num_steps=240 anchor=initial stages.bpo.algorithm.loss.beta=0.3
Ablation  jaxpref sweep experiments/bpo_small.py:sweep_behaviour
          (ends with a tournament judged by the checker; the report draws accuracy against KL. Others:
          bpo_small.py:sweep_seeds, bpo_small.py:sweep_losses, experiments/ablations/bpo_phases.py)
Try       jaxpref train experiments/bpo_small.py --smoke
Cost      about 70 CPU seconds a run beside SFT (1 minute on 2 quiet cores); on a machine with 12 other jobs
          each took 5 to 9 minutes.
Measured  2026-11-21; random keys have been derived differently since then (DESIGN.md, 58), so seeds give
          other numbers.
Expect    one run each (intervals are over 800 held-out prompts, 400 for KL, not over seeds); SFT 0.530.
                             right                  KL to SFT
          offline, beta 1    0.688 [0.655, 0.719]   0.453 [0.371, 0.536]
          offline, beta 0.5  0.641 [0.607, 0.674]   0.678 [0.548, 0.808]
          BPO F = 2          0.674 [0.640, 0.705]   0.382 [0.315, 0.448]
          BPO F = 120        0.726 [0.694, 0.756]   0.275 [0.216, 0.335]
          online DPO         0.715 [0.683, 0.745]   0.227 [0.170, 0.283]
          Win rate over SFT minus that of the offline base (beta 1), paired over prompts: F = 120 +0.024
          [0.008, 0.039], online DPO +0.024 [0.008, 0.038], F = 2 +0.004 [-0.013, 0.020]. So BPO
          that samples at every step beats the offline base with less KL; at its own KL it is 0.10
          [0.04, 0.16] more often right (the base by a straight line from SFT; 0.07 if its gain
          goes with the root of the KL). One extra phase is not told apart from the base at beta
          1; it beats the base of equal strength, beta 0.5, by 0.022 [0.005, 0.040] at half the
          KL. Nor is holding the policy to the sampler (F = 120) told apart from online DPO: here
          it is fresh samples that pay. Also tried: F = 2 with a schedule for each phase
          (cycles=2): 0.600 at KL 0.543, worse than the base (60 steps are few for a phase).
          Points along a run are no frontier here: KL rises and falls with the rate. The paper's
          gains (72.0 to 80.2 and 82.2 to 89.1 % by one extra phase) are not reproduced by this.
"""

from functools import partial

import _arithmetic as base

from jaxpref import losses
from jaxpref.algorithms import online
from jaxpref.algorithms.copies import copied
from jaxpref.algorithms.optimizers import adamw, restarted, warmup_cosine
from jaxpref.data.text.synthetic import arithmetic_tokenizer
from jaxpref.evals import sampled_kl
from jaxpref.experiment import Experiment, Tournament
from jaxpref.selection import two_samples

held_out = partial(base.problems, num_examples=800, part="held_out")


def experiment(
    *,
    name: str = "bpo_small",
    loss=partial(losses.dpo, beta=1.0),
    phases: int = 2,
    anchor: str = "behaviour",
    cycles: int = 1,
    num_steps: int = 120,
    peak: float = 3e-4,
    prompts_seed: int = 0,
) -> Experiment:
    """`phases` is F, how many behaviour policies there are, the SFT policy being the first; `anchor` is the
    reference of the loss, "behaviour" (BPO) or "initial" (the SFT policy). The learning rate rises and falls
    `cycles` times. Both divide `num_steps`."""
    for what, count in (("phases", phases), ("cycles", cycles)):
        if count < 1 or num_steps % count:
            raise ValueError(f"{what}: expected a divisor of num_steps={num_steps}, got {count}")
    schedule = partial(warmup_cosine, peak=peak, warmup_steps=20 // cycles)
    sampled = {"records": held_out, "max_tokens": base.MAX_TOKENS, "num_prompts": 400, "batch_size": 400}
    return Experiment(
        name=name,
        policy=base.policy,
        tokenizer=arithmetic_tokenizer,
        stages=(
            base.sft_stage(),
            base.stage(
                name="bpo",
                algorithm=partial(
                    online,
                    loss=loss,
                    sample_from=({"behaviour": 1.0},) * 2,
                    policies={"behaviour": partial(copied, every=num_steps // phases)},
                    reference=anchor,
                    judge=base.right_wins,
                    select=two_samples,
                    max_tokens=base.MAX_TOKENS,
                    optimizer=partial(adamw, schedule=partial(restarted, schedule=schedule, cycles=cycles)),
                ),
                train=partial(base.problems, num_examples=20_000, seed=prompts_seed),
                num_steps=num_steps,
                evaluators=(
                    partial(base.answers(num_prompts=800), records=held_out, batch_size=400),
                    partial(sampled_kl, **sampled, name="distance"),
                ),
                evaluators_every=60,
            ),
        ),
        arxiv=("2406.12168", "2402.04792"),
    )


def offline(*, beta: float = 1.0, prompts_seed: int = 0) -> Experiment:
    """DPO on samples of the SFT policy, labelled as they come: F = 1, the offline base."""
    return _named(f"offline beta={beta:g}", phases=1, beta=beta, prompts_seed=prompts_seed)


def extra_phase(*, beta: float = 1.0, prompts_seed: int = 0) -> Experiment:
    """BPO with F = 2: what half of the steps made is sampled from and is the anchor of the other half."""
    return _named(f"BPO F=2 beta={beta:g}", phases=2, beta=beta, prompts_seed=prompts_seed)


def on_policy(*, beta: float = 1.0, prompts_seed: int = 0) -> Experiment:
    """BPO with F = T: samples of the current policy, which is the anchor."""
    return _named(f"BPO F=120 beta={beta:g}", phases=120, beta=beta, prompts_seed=prompts_seed)


def online_dpo(*, beta: float = 1.0, prompts_seed: int = 0) -> Experiment:
    """Samples of the current policy, the SFT policy as the anchor: arXiv:2402.04792."""
    knobs = {"phases": 120, "anchor": "initial"}
    return _named(f"online DPO beta={beta:g}", beta=beta, prompts_seed=prompts_seed, **knobs)


def ipo(*, tau: float = 0.5) -> Experiment:
    """BPO-IPO: a margin of 1 / (2 tau) nats over the anchor."""
    return experiment(name="BPO-IPO", loss=partial(losses.ipo, tau=tau))


def slic(*, beta: float = 1.0) -> Experiment:
    """BPO-SLiC: max(0, 1 - beta h)."""
    return experiment(name="BPO-SLiC", loss=partial(losses.rso_hinge, beta=beta))


def _named(name: str, *, beta: float, prompts_seed: int, **knobs) -> Experiment:
    label = f"{name} seed={prompts_seed}" if prompts_seed else name
    return experiment(name=label, loss=partial(losses.dpo, beta=beta), prompts_seed=prompts_seed, **knobs)


def sweep_behaviour() -> list[Experiment]:
    """The offline base at two betas, one extra phase, a phase for each step, online DPO: equal steps."""
    return [offline(), offline(beta=0.5), extra_phase(), on_policy(), online_dpo()]


def sweep_seeds() -> list[Experiment]:
    """The offline base and one extra phase on other prompts, from the same SFT policy."""
    return [run(prompts_seed=seed) for seed in (0, 1, 2) for run in (offline, extra_phase)]


def sweep_losses() -> list[Experiment]:
    return [extra_phase(), ipo(), slic()]


def tournament() -> Tournament:
    """Every run against every other, the checker being the judge."""
    return Tournament(
        records=held_out,
        judge=base.right_wins,
        compiled=False,
        max_tokens=base.MAX_TOKENS,
        num_prompts=800,
        num_samples=2,
        batch_size=400,
    )
