"""How much of the reference the opponent should have: the mixture weight beta of Nash-MD-PG.

The game of `nash_md_small.py`, with its ten kinds of responses as ten actions of one prompt, its base model's
shares as the reference, and exact gradients: where the methods end, without noise of samples or training. The
sweep of the small language model is here too.

Claim     the best response to the base (beta 1) loses to all others; small weights cost nothing; beta 0 and
          0.125 are closer than any tournament can tell.
Paper     Munos et al. (2023), arXiv:2312.00886, whose table has beta in eighths on TL;DR.
Run       jaxpref train experiments/ablations/nash_md_mixture.py
          jaxpref sweep experiments/ablations/nash_md_mixture.py:sweep_exact
          jaxpref sweep experiments/ablations/nash_md_mixture.py:sweep_mixture
Change    beta=0.5 tau=0.02 num_steps=2000
Cost      exact: 5 to 9 CPU seconds each (500 steps, no files). The language model: as nash_md_small.py.
Expect    exact, after 500 steps (KL to the fixed points 0.001 to 0.01 nats), in a table of

          beta    win rate against                              flattering   KL to the base, nats
                  the base   self-play   best response
          0       .700       .499        .562                   .019         1.71
          0.125   .705       .501        .572                   .024         1.76
          0.25    .711       .504        .584                   .030         1.82
          0.5     .724       .508        .607                   .049         1.98
          0.75    .731       .497        .598                   .133         1.94
          1       .728       .435        .499                   .463         1.63

          The best response wins most but one against the base, and loses to everyone. Between beta 0 and 0.5
          no win rate over self-play is beyond .51. The language model: not swept yet over all weights.
Reference The paper's win rates of beta 0.125 (Table 1; two notes on it agree): .592 over self-play; .575,
          .530 and .631 over beta .25, .375 and .5; .837 over the best response.
"""

from functools import partial

import jax.numpy as jnp
import nash_md_small as small
import numpy as np

from jaxpref import losses
from jaxpref.algorithms import online
from jaxpref.algorithms.mixtures import nash_md
from jaxpref.algorithms.optimizers import adamw, warmup_cosine
from jaxpref.data.text.actions import action_pairs, actions_tokenizer
from jaxpref.evals import Context, Estimate, Evaluation
from jaxpref.experiment import Experiment, Stage
from jaxpref.games.equilibria import beta_fixed_point
from jaxpref.judges import matrix_judge
from jaxpref.policies.tabular import enumerated, tabular
from jaxpref.selection import versus
from jaxpref.types import Prompts


def experiment(*, beta: float = 0.125, tau: float = 0.05, num_steps: int = 500) -> Experiment:
    """The small game, exactly."""
    return Experiment(
        name=f"beta_{beta:g}",
        policy=ten_actions,
        tokenizer=partial(actions_tokenizer, num_actions=10),
        stages=(
            Stage(
                name="game",
                algorithm=partial(
                    online,
                    sample_from=nash_md(beta),
                    loss=partial(losses.nash_md, tau=tau),
                    judge=judge,
                    select=versus,
                    max_tokens=1,
                    exact=True,
                    optimizer=partial(optimizer, num_steps=num_steps),
                ),
                train=partial(action_pairs, num_actions=10),
                num_steps=num_steps,
                batch_size=1,
                evaluators=(partial(standing, tau=tau, beta=beta),),
                checkpoint_every=num_steps,
            ),
        ),
        log_every=200,
        arxiv=("2312.00886",),
    )


def sweep_exact(*, tau: float = 0.05, num_steps: int = 500) -> list[Experiment]:
    """The small game with exact gradients."""
    weights = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)
    return [experiment(beta=beta, tau=tau, num_steps=num_steps) for beta in weights]


def sweep_mixture(*, tau: float = 0.05, num_steps: int = 100) -> list[Experiment]:
    """The small language model."""
    weights = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)
    return [
        small.experiment(name=f"beta_{beta:g}", beta=beta, tau=tau, num_steps=num_steps) for beta in weights
    ]


def tournament():
    return small.tournament()


def optimizer(*, num_steps: int):
    """Adam, whose steps do not shrink by themselves: a decaying rate lets it settle."""
    schedule = partial(warmup_cosine, peak=0.05, warmup_steps=0, num_steps=num_steps)
    return adamw(schedule=schedule, clip_norm=None)


def ten_actions():
    """Kinds of responses, in the base model's shares."""
    return tabular(prompts=1, vocab=10, initial=np.log(small.kind_shares())[None])


def judge():
    return matrix_judge(which, small.table())


def which(completions):
    return completions.response_tokens[..., 0]


def standing(
    context: Context, *, tau: float, beta: float, name: str = "exact", num_prompts: int = 1
) -> Evaluation:
    """Win rates against what the theory says that others become. Sums, not samples: no interval."""
    del num_prompts
    prompts = Prompts(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))
    record = enumerated(context.policy, prompts)
    logps = np.asarray(context.fetch(context.policy.token_logps(context.params, record)), np.float64).sum(-1)
    policy, reference, wins = np.exp(logps)[0], small.kind_shares(), np.asarray(small.table())

    def limit(weight: float):
        return np.exp(beta_fixed_point(wins, reference, tau, weight))

    others = {
        "the base": reference,
        "self-play": limit(0.0),
        "Nash-MD 0.125": limit(0.125),
        "best response": limit(1.0),
    }
    values = {f"win rate against {label}": float(policy @ wins @ other) for label, other in others.items()}
    values |= {
        "KL to the base": float((policy * np.log(policy / reference)).sum()),
        "KL to its fixed point": float((policy * np.log(policy / limit(beta))).sum()),
        "flattering": float(policy[2:4].sum()),
        "right": float(policy[1::2].sum()),
    }
    return Evaluation(name, {label: Estimate(x, x, x, 1, "") for label, x in values.items()})
