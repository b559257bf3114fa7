"""BPO on arithmetic: the trust region is drawn around the policy that sampled the pairs."""

from functools import partial

import _arithmetic as base

from jaxpref import losses
from jaxpref.algorithms import online
from jaxpref.algorithms.bank import copied
from jaxpref.data.synthetic import arithmetic_tokenizer
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
    num_steps: int = 120,
    peak: float = 3e-4,
    prompts_seed: int = 0,
) -> Experiment:
    """`phases` is F: how often the behaviour policy is renewed, the SFT policy being the first. It divides
    `num_steps`. `anchor` is the reference of the loss: "behaviour" (BPO) or "initial" (the SFT policy)."""
    if phases < 1 or num_steps % phases:
        raise ValueError(f"phases: expected a divisor of num_steps={num_steps}, got {phases}")
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
                    draws=({"behaviour": 1.0},) * 2,
                    bank={"behaviour": partial(copied, every=num_steps // phases)},
                    reference=anchor,
                    judge=base.right_wins,
                    build=two_samples,
                    max_tokens=base.MAX_TOKENS,
                    optimizer=partial(base.optimizer, peak=peak, num_steps=num_steps),
                ),
                train=partial(base.problems, num_examples=20_000, seed=prompts_seed),
                num_steps=num_steps,
                evaluators=(
                    partial(base.answers(num_prompts=800), records=held_out, batch_size=400),
                    partial(sampled_kl, **sampled, name="distance"),
                ),
                evaluators_every=30,
            ),
        ),
        arxiv=("2406.12168", "2402.04792"),
    )


def offline(*, beta: float = 1.0, prompts_seed: int = 0) -> Experiment:
    """DPO on samples of the SFT policy, labelled as they come: F = 1, the offline base."""
    return _named(f"offline beta={beta:g}", phases=1, beta=beta, prompts_seed=prompts_seed)


def online_dpo(*, beta: float = 1.0, prompts_seed: int = 0) -> Experiment:
    """Samples of the current policy, the SFT policy as the anchor: arXiv:2402.04792."""
    return _named(
        f"online DPO beta={beta:g}", phases=120, anchor="initial", beta=beta, prompts_seed=prompts_seed
    )


def _named(name: str, *, beta: float, prompts_seed: int, **knobs) -> Experiment:
    label = f"{name} seed={prompts_seed}" if prompts_seed else name
    return experiment(name=label, loss=partial(losses.dpo, beta=beta), prompts_seed=prompts_seed, **knobs)


def sweep_phases(*, prompts_seed: int = 0) -> list[Experiment]:
    """The offline base at two strengths, one extra phase, several, a phase for each step; online DPO."""
    bpo = [
        _named(f"BPO F={phases}", phases=phases, beta=1.0, prompts_seed=prompts_seed)
        for phases in (2, 4, 120)
    ]
    return [
        offline(prompts_seed=prompts_seed),
        offline(beta=0.5, prompts_seed=prompts_seed),
        *bpo,
        online_dpo(prompts_seed=prompts_seed),
    ]


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
