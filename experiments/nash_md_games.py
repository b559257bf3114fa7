"""Rock, paper, scissors, solved exactly: which dynamics reach the equilibrium, and which go round.

A policy is a table of three probabilities and every step is exact, so what a curve shows is the method and no
noise. The reference (0.7, 0.2, 0.1) is also the start, and tau prices the KL to it. Nash-MD plays against a
mixture of the policy and the reference. Its last iterate converges if the step size decays. A constant step
eta ends at the fixed point of another game, whose opponent is the mixture of weight eta tau: small steps have
a small bias and are slow. Mirror descent against the policy itself has no such theorem, and converges here
for all but large steps. Multiplicative weights (self-play with no reference) go round, and only their
average policy converges, to the equilibrium of the game without a reference.

Paper     Munos et al. (2023), arXiv:2312.00886 (Algorithm Nash-MD and its Theorem 1, on tables).
Run       jaxpref train experiments/nash_md_games.py
          jaxpref train experiments/nash_md_games.py:weak_cycle
Change    tau=0.3 reference=0.3,0.3,0.4 num_steps=5000
Ablation  jaxpref sweep experiments/nash_md_games.py:sweep_step_sizes
          jaxpref sweep experiments/nash_md_games.py:sweep_dynamics
          jaxpref sweep experiments/nash_md_games.py:sweep_opponents
Try       jaxpref train experiments/nash_md_games.py --smoke
Cost      10 seconds each on 2 CPU cores; the sweeps 69, 51 and 72 (other work was running).
Expect    Duality gap after 1000 steps (0 at the equilibrium):
          Nash-MD, decaying step  9.9e-7, KL to the equilibrium 1.2e-6 where the theorem allows 0.79;
                                  on the dice (`weak_cycle`) 8.4e-10 and 8.1e-9
          Nash-MD, constant step  eta 0.1, 0.5, 1, 2, 5: 2.6e-5, 7.1e-4, 3.2e-3, 0.016, 0.156, the gaps of the
                                  fixed points (after 100 steps eta 0.1 is at 0.033, the decaying step at
                                  4.2e-5)
          Dynamics, eta 1         mirror descent against itself 6e-16, extragradient 2e-14 (after 100 steps
                                  8e-7 and 4e-14), fictitious play 4.2e-5; best response goes round (0.31),
                                  and so do multiplicative weights (exploitability 0.5, of the average 0.0097)
          Opponents               beta 0, 0.125, 0.5, 1: 6e-16, 0.0053, 0.156, 0.097
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from jaxpref import games
from jaxpref.algorithms import matrix_game
from jaxpref.data.text.actions import action_pairs, actions_tokenizer
from jaxpref.environments import dice, rock_paper_scissors
from jaxpref.experiment import Experiment, Stage
from jaxpref.policies.tabular import tabular

REFERENCE = (0.7, 0.2, 0.1)


def experiment(
    *,
    tau: float = 0.1,
    reference: tuple[float, ...] = REFERENCE,
    num_steps: int = 1000,
) -> Experiment:
    """Nash-MD with the decaying step size of the theorem."""
    return _play(
        name="nash_md_games",
        update=games.nash_md_step,
        step_size=games.decaying_step_size,
        bound=games.nash_md_step_bound,
        tau=tau,
        reference=reference,
        num_steps=num_steps,
    )


def weak_cycle(
    *, tau: float = 0.1, reference: tuple[float, ...] = REFERENCE, num_steps: int = 1000
) -> Experiment:
    """The same on three dice, each of which beats the next with probability 5/9."""
    return _play(
        name="nash_md_dice",
        update=games.nash_md_step,
        step_size=games.decaying_step_size,
        bound=games.nash_md_step_bound,
        tau=tau,
        reference=reference,
        num_steps=num_steps,
        game=dice,
    )


def constant_step(*, eta: float = 1.0, tau: float = 0.1, num_steps: int = 1000) -> Experiment:
    """Nash-MD with a constant step size."""
    return _play(
        name=f"nash_md_eta_{eta:g}",
        update=games.nash_md_step,
        step_size=partial(games.constant_step_size, eta=eta),
        bound=games.nash_md_step_bound,
        tau=tau,
        num_steps=num_steps,
    )


def sweep_step_sizes(*, tau: float = 0.1, num_steps: int = 1000) -> list[Experiment]:
    """The decaying step size against constant ones, Nash-MD throughout."""
    constants = [constant_step(eta=eta, tau=tau, num_steps=num_steps) for eta in (0.1, 0.5, 1.0, 2.0, 5.0)]
    return [experiment(tau=tau, num_steps=num_steps), *constants]


def sweep_dynamics(*, eta: float = 1.0, tau: float = 0.1, num_steps: int = 1000) -> list[Experiment]:
    """Six dynamics of one game, with the same constant step where they have one."""
    updates: dict[str, Callable[..., Any]] = {
        "nash_md": games.nash_md_step,
        "online_mirror_descent": games.omd_step,
        "extragradient": games.extragradient_step,
        "multiplicative_weights": games.mwu_step,
        "best_response": games.best_response_step,
        "fictitious_play": games.fictitious_play_step,
    }
    step_size = partial(games.constant_step_size, eta=eta)
    return [
        _play(name=name, update=update, step_size=step_size, tau=tau, num_steps=num_steps)
        for name, update in updates.items()
    ]


def sweep_opponents(*, eta: float = 1.0, tau: float = 0.1, num_steps: int = 1000) -> list[Experiment]:
    """Mirror descent against mixtures with the reference: from self-play (0) to the reference itself (1)."""
    return [
        _play(
            name=f"beta_{beta:g}",
            update=partial(games.mirror_step, beta=beta),
            step_size=partial(games.constant_step_size, eta=eta),
            tau=tau,
            num_steps=num_steps,
        )
        for beta in (0.0, 0.125, 0.5, 1.0)
    ]


def _play(
    *,
    name: str,
    update: Callable[..., Any],
    step_size: Callable[..., Any],
    tau: float,
    num_steps: int,
    bound: Callable[..., Any] | None = None,
    reference: tuple[float, ...] = REFERENCE,
    game: Callable[..., Any] = rock_paper_scissors,
) -> Experiment:
    records = partial(action_pairs, num_actions=3)
    return Experiment(
        name=name,
        policy=partial(tabular, prompts=1, vocab=3, initial=(tuple(map(math.log, reference)),)),
        tokenizer=partial(actions_tokenizer, num_actions=3),
        stages=(
            Stage(
                name="game",
                algorithm=partial(
                    matrix_game,
                    game=partial(game, reference=reference),
                    update=update,
                    tau=tau,
                    step_size=step_size,
                    bound=bound,
                ),
                train=records,
                evaluation=records,  # the game again: where the last step ended
                num_steps=num_steps,
                batch_size=6,
                evaluate_every=num_steps,
                checkpoint_every=num_steps,
            ),
        ),
        log_every=100,
        arxiv=("2312.00886",),
    )
