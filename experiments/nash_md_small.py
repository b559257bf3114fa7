"""Nash-MD and its rivals under a judge with cycles: a small language model plays a game of openings.

A worked answer may begin with one of five openings (none, "*", "=", "+", ";"). The base model has learned
them in unequal shares. The judge knows how each opening fares against each other one, and likes right
answers: P(i beats j) = sigmoid(strength of i over j + right_i - right_j). "*" flatters: it beats the common
plain answer with 0.9, and loses to each of the other three with 0.8. Those three beat the plain one narrowly
(0.6) and one another in a circle (0.7). So what does best against the base model is not what does best
against good policies, and no reward for each response reproduces the table.

Opponents and losses change, all else stays: steps, learning rate, responses drawn to a prompt (two) and
tau. Nash-MD plays against a mixture of policy and base (beta 0.125 and 0.5), self-play is beta 0, the best
response to the base beta 1; Nash-EMA plays the average of its iterates; online IPO and IPO-MD fit pairs. RLHF
maximises the Bradley-Terry reward that fits comparisons of the base model's own samples best, at the same
price of KL, and at four times that price (P = 1/2 + reward / 4 near a tie).

Paper     Munos et al. (2023), arXiv:2312.00886; Calandriello et al. (2024), arXiv:2403.08635 (IPO-MD). The
          task and the judge are ours.
Run       jaxpref train experiments/nash_md_small.py
          jaxpref sweep experiments/nash_md_small.py:sweep_methods
          (trains all and ends with the matrix of win rates; `jaxpref tournament` plays it again)
Change    beta=0.5 tau=0.1 num_steps=500
Ablation  jaxpref sweep experiments/ablations/nash_md_mixture.py:sweep_mixture
          jaxpref sweep experiments/ablations/kl_estimators.py:sweep_estimators
Try       jaxpref train experiments/nash_md_small.py --smoke
Cost      5 minutes for a game of 600 steps (510 CPU seconds on 2 cores), 2 for the two stages before it (the
          first is that of quickstart.py), 20 CPU seconds for a tournament of five.
Measured  2026-11-21; random keys have been derived differently since then (DESIGN.md, 58), so seeds give
          other numbers.
Expect    Win rates of the row over the column (1000 held-out prompts, 4 samples each; one seed;
          Clopper-Pearson half-widths .031), what is sampled, and KL to the base (400 samples); tau 0.05:

                         base  Nash-MD  self-play  best r.  RLHF   flattering  right  KL, nats
          base                 .352     .351       .244     .182   .107        .267   0
          Nash-MD 0.125  .648           .501       .529     .459   .148        .697   1.67 [1.51, 1.83]
          self-play      .649  .499                .515     .443   .145        .709   1.56 [1.39, 1.72]
          best response  .756  .471     .485                .394   .950        .522   2.94 [2.80, 3.08]
          RLHF           .818  .541     .557       .606            1.000       .974   4.24 [4.14, 4.34]

          Nash-MD beats the base and ties with self-play and the best response (.529 [.498, .561]). It loses
          to RLHF in plain win rate, .459 [.428, .491], and wins with the KL priced in, which is the game that
          is trained: P - tau KL(row) + tau KL(column) = .588 [.55, .63], intervals joined (.593 against the
          best response, .496 against self-play, .564 against the base). The reason is in the last columns:
          RLHF, which says nothing but flattery, has become right nearly always at 4.2 nats, and Nash-MD is
          right in .70 so far. The game of ten kinds, solved exactly for the base's own shares, has it at .958
          right, with plain win rates of .709 over the base, .504, .600 and .563 over RLHF. The openings are
          on their way there: .35 plain and .16, .19, .16 in the circle (exact: .24 and .22, .25, .26).
          Noise is what takes the steps: with 2 responses of 128 prompts in place of 8 of 64, 400 steps at a
          rate of 3e-4 end at .558 against the base and .267 right, and 300 steps of 8 responses at that rate
          at .573 and .41. Not measured: RLHF at the price that equals tau near a tie (`rlhf_dear`; exact:
          .542), beta 0.5, the pairs' methods, Nash-EMA, more seeds and more steps.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import _arithmetic as base
import jax.numpy as jnp
import numpy as np

from jaxpref import losses
from jaxpref.algorithms import online, sft
from jaxpref.algorithms.copies import averaged
from jaxpref.algorithms.mixtures import Mixtures, nash_md
from jaxpref.data import Example, Records, encode_example
from jaxpref.data.text.synthetic import arithmetic_demonstrations, arithmetic_tokenizer, check_arithmetic
from jaxpref.environments.fitted import fitted_rewards
from jaxpref.evals import generation, sampled_kl
from jaxpref.experiment import Experiment, Stage, Tournament
from jaxpref.judges import Scorer, matrix_judge, text_scorer
from jaxpref.selection import soft_pair, versus

MAX_TOKENS = 12  # opening, worked answer and EOS
OPENINGS = ("", "*", "=", "+", ";")
SHARES = (0.6, 0.16, 0.08, 0.08, 0.08)  # of the demonstrations; the base model says .74, .10, .05, .05, .07
RIGHT = 0.27  # of the base model's answers (109 of 400 held-out ones): what the reward model is fitted on
# Log-odds of the row against the column: plain, flattering, and three of a circle.
STRENGTHS = (
    (0.0, -2.2, -0.4, -0.4, -0.4),
    (2.2, 0.0, -1.4, -1.4, -1.4),
    (0.4, 1.4, 0.0, 0.85, -0.85),
    (0.4, 1.4, -0.85, 0.0, 0.85),
    (0.4, 1.4, 0.85, -0.85, 0.0),
)

STEPS, BATCH, SAMPLES = 600, 64, 4  # prompts a step; responses a prompt of the policy and of its opponent

stage = partial(Stage, prompt_buckets=(7,), response_buckets=(MAX_TOKENS,))


def experiment(
    *,
    name: str = "nash_md",
    beta: float = 0.125,
    tau: float = 0.05,
    peak: float = 1e-3,
    num_steps: int = STEPS,
    batch_size: int = BATCH,
    num_samples: int = SAMPLES,
    sft_steps: int = 500,
    seed: int = 0,
) -> Experiment:
    """Nash-MD-PG; `beta` 0 is self-play, 1 the best response to the base model."""
    return play(
        name=name,
        sample_from=nash_md(beta, num_samples=num_samples, num_opponents=num_samples),
        loss=partial(losses.nash_md, tau=tau),
        select=partial(versus, num_opponents=num_samples),
        peak=peak,
        num_steps=num_steps,
        batch_size=batch_size,
        sft_steps=sft_steps,
        seed=seed,
    )


def sweep_methods(
    *,
    tau: float = 0.05,
    peak: float = 1e-3,
    num_steps: int = STEPS,
    batch_size: int = BATCH,
    num_samples: int = SAMPLES,
    seed: int = 0,
) -> list[Experiment]:
    """The rivals, at the same number of steps, responses drawn, learning rate and price of KL."""
    plan = {"peak": peak, "num_steps": num_steps, "seed": seed}
    many = plan | {"batch_size": batch_size}
    pairs = plan | {"batch_size": batch_size * num_samples}
    own = ({"policy": 1.0},) * num_samples
    nash, ipo = partial(losses.nash_md, tau=tau), partial(losses.online_ipo, tau=tau)
    average = {"average": partial(averaged, decay=0.98)}
    opponents = {"nash_md_125": 0.125, "best_response": 1.0, "self_play": 0.0, "nash_md_500": 0.5}
    return [
        *(
            experiment(name=name, beta=beta, tau=tau, num_samples=num_samples, **many)
            for name, beta in opponents.items()
        ),
        *(
            play(
                name=name,
                sample_from=own * 2,
                loss=partial(losses.rloo, beta=price),
                scorer=rewards_of_samples,
                **many,
            )
            for name, price in (("rlhf", tau), ("rlhf_dear", 4 * tau))
        ),
        play(name="ipo_md", sample_from=nash_md(0.125)[1:] * 2, loss=ipo, select=soft_pair, **pairs),
        play(name="online_ipo", sample_from=own[:1] * 2, loss=ipo, select=soft_pair, **pairs),
        play(
            name="nash_ema",
            sample_from=own + ({"average": 1.0},) * num_samples,
            policies=average,
            loss=nash,
            select=partial(versus, num_opponents=num_samples),
            **many,
        ),
    ]


def tournament(*, num_prompts: int = 1000, num_samples: int = 4) -> Tournament:
    """All policies of a sweep and the base model on held-out problems, under the judge they trained with."""
    return Tournament(
        records=partial(base.problems, num_examples=num_prompts, part="held_out"),
        judge=judge,
        compiled=False,
        max_tokens=MAX_TOKENS,
        num_prompts=num_prompts,
        num_samples=num_samples,
        batch_size=500,
    )


def play(
    *,
    name: str,
    sample_from: Mixtures,
    loss: Callable[..., Any],
    peak: float,
    num_steps: int,
    batch_size: int,
    seed: int,
    sft_steps: int = 500,
    opening_steps: int = 100,
    **settings: Any,
) -> Experiment:
    """Stages `sft` (as in quickstart.py), `openings` and `game`."""
    if "scorer" not in settings:
        settings["judge"] = judge
    return Experiment(
        name=name,
        policy=base.policy,
        tokenizer=arithmetic_tokenizer,
        stages=(
            base.sft_stage(num_steps=sft_steps),
            stage(
                name="openings",
                algorithm=partial(
                    sft,
                    optimizer=partial(base.optimizer, peak=1e-3, warmup_steps=10),
                ),
                train=partial(demonstrations, num_examples=20_000),
                num_steps=opening_steps,
                batch_size=64,
                evaluation=partial(demonstrations, num_examples=400, part="held_out"),
                evaluate_every=opening_steps,
                evaluators=(answers(),),
            ),
            stage(
                name="game",
                algorithm=partial(
                    online,
                    sample_from=sample_from,
                    loss=loss,
                    max_tokens=MAX_TOKENS,
                    optimizer=partial(base.optimizer, peak=peak),
                    **settings,
                ),
                train=partial(base.problems, num_examples=20_000),
                num_steps=num_steps,
                batch_size=batch_size,
                evaluators=(answers(), divergence()),
            ),
        ),
        seed=seed,
        arxiv=("2312.00886", "2403.08635"),
    )


def answers():
    """Sampled answers to held-out problems, checked behind their opening."""
    return partial(
        generation,
        records=base.held_out,
        checker=right_answer,
        max_tokens=MAX_TOKENS,
        temperature=1.0,
        num_prompts=400,
        batch_size=400,
    )


def divergence():
    return partial(
        sampled_kl, records=base.held_out, max_tokens=MAX_TOKENS, num_prompts=400, batch_size=400, name="kl"
    )


# The task: worked answers with openings.


def parted(response: str) -> tuple[int, str]:
    """The opening (its number) and the worked answer behind it."""
    number = next((i for i, opening in enumerate(OPENINGS) if i and response.startswith(opening)), 0)
    return number, response[len(OPENINGS[number]) :]


def right_answer(prompt: str, response: str) -> bool:
    return check_arithmetic(prompt, parted(response)[1])


def kind(prompt: str, response: str) -> int:
    """The response's row of the judge's table: twice its opening, plus 1 where it is right."""
    return 2 * parted(response)[0] + right_answer(prompt, response)


def demonstrations(*, num_examples: int, part: str = "train", seed: int = 0) -> Records:
    """Worked answers, 40 % of them with a slip, behind openings drawn by `SHARES`."""
    plain = arithmetic_demonstrations(
        num_examples=num_examples, wrong_fraction=0.4, num_digits=2, operations="+-", part=part, seed=seed
    )
    tokenizer, generator = arithmetic_tokenizer(), np.random.default_rng([seed, part == "train"])
    drawn = generator.choice(len(OPENINGS), size=num_examples, p=SHARES)
    rows = [
        encode_example(
            tokenizer,
            tokenizer.decode(plain.prompt(row).tolist()[1:]),
            [OPENINGS[opening] + tokenizer.decode(plain.response(row, 0).tolist()[:-1])],
            prompt_length=7,
            response_length=MAX_TOKENS,
        )
        for row, opening in enumerate(drawn)
    ]
    source = {"kind": "openings", "part": part, "seed": seed}
    metadata = {**plain.metadata, "source": source}
    return Records.from_examples([row for row in rows if isinstance(row, Example)], metadata)


# The judge.


def table() -> tuple[tuple[float, ...], ...]:
    """P(row beats column) of the ten kinds."""
    opening, right = np.repeat(np.arange(5), 2), np.tile([0.0, 1.0], 5)
    logits = np.asarray(STRENGTHS)[opening[:, None], opening[None]] + right[:, None] - right[None]
    return tuple(map(tuple, 1 / (1 + np.exp(-logits))))


def kind_shares() -> np.ndarray:
    """How often the base model gives each kind, if it had learned its demonstrations perfectly."""
    return np.outer(SHARES, (1 - RIGHT, RIGHT)).reshape(-1)


def judge():
    scorer = text_scorer(kind, arithmetic_tokenizer())
    return matrix_judge(lambda completions: scorer({}, completions).astype(jnp.int32), table())


def rewards() -> np.ndarray:
    """The Bradley-Terry reward of each kind that a reward model learns from ever so many comparisons of the
    base model's own samples."""
    shares = kind_shares()
    return fitted_rewards(1e6 * np.outer(shares, shares) * np.asarray(table()), prior=100.0)


def rewards_of_samples() -> Scorer:
    """`rewards` of each response."""
    known, scorer = jnp.asarray(rewards(), jnp.float32), text_scorer(kind, arithmetic_tokenizer())
    return lambda policies, completions: known[scorer(policies, completions).astype(jnp.int32)]
