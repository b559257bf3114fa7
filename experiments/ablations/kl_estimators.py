"""Which form of the KL term has the gradient of the KL: six of them, in the same exact game.

A policy of two tokens, three of each, plays itself on all nine responses under a random judge; its table is
the reference at the start. Every expectation is summed, so what differs is the gradient and no noise. The
term tau * KL(pi, ref) may enter the loss as

  to_go      log pi(y_n) times the log-ratios of y_n and all later tokens: Nash-MD-PG, exact
  local      log pi(y_n) times the log-ratio of y_n alone (TRL's Nash-MD): the later ones are lost
  k1         the log-ratio itself, minimised: its mean gradient is zero, so nothing holds the policy
  k2, k3     its square / 2, or exp(-u) - 1 + u, of each token (GRPO has k3): lose the same, and k3 has the
             gradient of the KL the other way round, KL(ref, pi)
  k2_whole   the square / 2 of the whole response's log-ratio: exact again

Claim     with the exact forms self-play ends at the equilibrium of the regularised game; the others end
          elsewhere.
Paper     Munos et al. (2023), arXiv:2312.00886, Sec. 7 (the gradient); the comparison is ours.
Run       jaxpref train experiments/ablations/kl_estimators.py
          jaxpref sweep experiments/ablations/kl_estimators.py:sweep_estimators
Change    form=local tau=0.05 num_steps=2000 tree_seed=3
Cost      8 to 14 CPU seconds each (1000 steps, in a loop that writes no files).
Expect    tau 0.1, tree 0, after 1000 steps: duality gap, and KL(equilibrium, policy) in nats
            to_go and k2_whole   2.2e-4  6.0e-4   (the same digits: the same gradient)
            local and k2         3.0e-3  0.012    (likewise)
            k3                   1.8e-3  0.013
            k1                   0.419   5.0      (2.6 nats from the reference, the equilibrium 0.45)
          Of the first 1e-4 or so are left to go: tree 1 is at 0.0000 and 0.0000 then. At tau 0.3 (300 steps)
          the equilibrium is only 0.07 nats away and the errors are small: gaps 0, 0, 4e-5, 4e-5, 6e-4, 0.61.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpref import games, losses
from jaxpref.algorithms import online
from jaxpref.algorithms.optimizers import adamw, warmup_cosine
from jaxpref.data.text.actions import action_pairs, actions_tokenizer
from jaxpref.environments.trees import two_token_tree
from jaxpref.evals import Context, Estimate, Evaluation
from jaxpref.experiment import Experiment, Stage
from jaxpref.judges import matrix_judge
from jaxpref.losses.kl import k1, k2, k3, token_ratios
from jaxpref.policies.tabular import enumerated, tabular
from jaxpref.selection import versus
from jaxpref.types import Prompts


def experiment(
    *, form: str = "to_go", tau: float = 0.1, num_steps: int = 1000, tree_seed: int = 0
) -> Experiment:
    """`form`: a name of the table above."""
    forms: dict[str, Callable[..., Any]] = {
        "to_go": losses.nash_md,
        "local": local,
        "k1": partial(as_loss, estimator=k1),
        "k2": partial(as_loss, estimator=k2),
        "k3": partial(as_loss, estimator=k3),
        "k2_whole": partial(as_loss, estimator=k2, whole=True),
    }
    if form not in forms:
        raise ValueError(f"form: expected one of {', '.join(forms)}, got {form!r}")
    return Experiment(
        name=form,
        policy=partial(two_tokens, tree_seed=tree_seed),
        tokenizer=partial(actions_tokenizer, num_actions=3),
        stages=(
            Stage(
                name="game",
                algorithm=partial(
                    online,
                    sample_from=({"policy": 1.0},) * 2,
                    loss=partial(forms[form], tau=tau),
                    judge=partial(judge, tree_seed=tree_seed),
                    select=versus,
                    max_tokens=2,
                    exact=True,
                    optimizer=optimizer,
                ),
                train=partial(action_pairs, num_actions=3),
                num_steps=num_steps,
                batch_size=1,
                evaluators=(partial(distance, tau=tau, tree_seed=tree_seed),),
                checkpoint_every=num_steps,
            ),
        ),
        log_every=200,
        arxiv=("2312.00886",),
    )


def sweep_estimators(*, tau: float = 0.1, num_steps: int = 1000, tree_seed: int = 0) -> list[Experiment]:
    return [
        experiment(form=form, tau=tau, num_steps=num_steps, tree_seed=tree_seed)
        for form in ("to_go", "k2_whole", "local", "k2", "k3", "k1")
    ]


def local(token_logps, reference_token_logps, win_rates, mask, *, tau: float):
    """Each token answers for its own log-ratio only."""
    ratios = jax.lax.stop_gradient(token_ratios(token_logps, reference_token_logps, mask))
    advantages = jax.lax.stop_gradient(win_rates)[..., None] - 0.5 - tau * ratios
    return -(jnp.where(mask, token_logps, 0) * advantages).sum(-1)


def as_loss(
    token_logps,
    reference_token_logps,
    win_rates,
    mask,
    *,
    tau: float,
    estimator: Callable[..., Any],
    whole: bool = False,
):
    """The gradient of the win rate, and an estimator minimised as it stands, of tokens or whole responses."""
    ratios = token_ratios(token_logps, reference_token_logps, mask)
    price = estimator(ratios.sum(-1)) if whole else estimator(ratios).sum(-1)
    unpriced = losses.nash_md(token_logps, reference_token_logps, win_rates, mask, tau=0.0)
    return unpriced + tau * price


def optimizer():
    """Adam, whose steps do not shrink by themselves: a decaying rate lets it settle."""
    schedule = partial(warmup_cosine, peak=0.05, warmup_steps=0)
    return adamw(schedule=schedule, clip_norm=None)


def two_tokens(*, tree_seed: int = 0):
    return tabular(
        prompts=1, vocab=3, length=2, initial=two_token_tree(vocab=3, seed=tree_seed).reference_logits
    )


def judge(*, tree_seed: int = 0):
    return matrix_judge(which, two_token_tree(vocab=3, seed=tree_seed).game.preferences[0].tolist())


def which(completions):
    """The number of a response in lexicographic order."""
    return completions.response_tokens[..., 0] * 3 + completions.response_tokens[..., 1]


def distance(
    context: Context, *, tau: float, tree_seed: int = 0, name: str = "exact", num_prompts: int = 1
) -> Evaluation:
    """How far the policy is from the regularised equilibrium. Sums, not samples: no interval."""
    del num_prompts
    game = two_token_tree(vocab=3, seed=tree_seed).game
    wins = jnp.asarray(game.preferences)
    prompts = Prompts(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))
    record = enumerated(context.policy, prompts)
    logps = context.policy.token_logps(context.params, record).sum(-1)
    reference = jnp.log(jnp.asarray(game.reference))
    equilibrium = jnp.asarray(games.regularised_nash(game.preferences, game.reference, tau))
    measures = {
        "duality gap": games.duality_gap(wins, logps, reference, tau),
        "KL of the equilibrium to the policy": games.kl_divergence(equilibrium, logps),
        "KL to the reference": games.kl_divergence(logps, reference),
        "KL of the equilibrium to the reference": games.kl_divergence(equilibrium, reference),
    }
    values = {label: float(np.asarray(value).mean()) for label, value in measures.items()}
    return Evaluation(name, {label: Estimate(x, x, x, 1, "") for label, x in values.items()})
