"""Bayesian reward extrapolation in the common loop: a chain of reward weights, given ranked segments."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpref.algorithms.base import NONE, Algorithm, Constants, TrainState, num_tokens
from jaxpref.algorithms.reported import reward_metrics
from jaxpref.algorithms.reward_posterior import Norm, RewardPosterior, length, reward_posterior
from jaxpref.losses.checks import positive
from jaxpref.losses.trajectories import ranking_log_likelihood, trajectory_bradley_terry
from jaxpref.metrics import Mean, Metrics, weighted_mean
from jaxpref.policies.base import Policy, without_constants
from jaxpref.types import Params, PRNGKey, Segments

__all__ = ["ATARI", "GRIDWORLD", "RewardChain", "bayesian_rex"]

# What the paper's two released programs run, for `partial(bayesian_rex, **ATARI)`.
# dsbrown1331/bayesianrex: 64 features, 200,000 proposals, of which the first 5,000 are dropped.
ATARI: Mapping[str, Any] = MappingProxyType(
    {"draws": 9750, "thin": 20, "width": 0.005, "norm": "l2", "confidence": 1.0}
)
# dsbrown1331/brex_gridworld_cpp: 4 features, 5,000 proposals. It means to drop a tenth of them and drops none
# (its cast to int comes before the product).
GRIDWORLD: Mapping[str, Any] = MappingProxyType(
    {"draws": 1000, "thin": 5, "width": 0.01, "norm": "l1", "confidence": 50.0}
)


def bayesian_rex(
    policy: Policy,
    *,
    draws: int = 1000,
    thin: int = 5,
    width: float = 0.1,
    norm: Norm = "l2",
    confidence: float = 1.0,
) -> Algorithm:
    """B-REX (Brown et al. 2020, arXiv:2002.09089): each step advances the chain by `draws` kept draws.

    Params are the mean of the last step's draws; the first steps serve as burn-in, after which the chain has
    forgotten where it started. The state holds these "draws" `{"weights": [draws, m]}` and the likeliest
    weights so far, "map" (the prior is uniform on the sphere): `evals.posterior_returns` reads them. The
    likelihood is that of a batch, so a batch must be all the data: `batch_size` is the number of records. A
    row of weight 2 is seen twice.

    Features of segments are summed once a step; a proposal then costs one product, and no planning.

    Metrics: `loss` (of the mean, nats a pair; held out too), `chain/loss` (of the draws), `chain/accepted`
    (share of proposals) and `chain/concentration` (length of the mean: 1 where all draws agree).

    Args:
      policy: scores of segments that are linear in params `{"weights": [m]}`, such as
        `policies.return_scores` of a `linear_reward`.
      draws, thin, width, norm: see `algorithms.reward_posterior`. The defaults are ours, for a few features;
        `ATARI` and `GRIDWORLD` are the settings of the released programs.
      confidence: inverse temperature of comparisons, the unit that weights of length 1 lack.

    Raises:
      ValueError: a policy with other params, or a number out of range.
    """
    without_constants(policy, "bayesian_rex")
    positive(width=width, confidence=confidence)
    if draws < 1 or thin < 1:
        raise ValueError(f"bayesian_rex: expected draws and thin of 1 or more, got {draws} and {thin}")
    shapes = jax.tree.map(lambda x: x.shape, jax.eval_shape(policy.init, jax.random.key(0)))
    quantities = policy.quantities
    if quantities is None or list(shapes) != ["weights"] or len(shapes["weights"]) != 1:
        raise ValueError(
            f"bayesian_rex: expected scores linear in params {{'weights': [m]}}, got params {shapes}; use "
            "policies.return_scores of a linear_reward"
        )
    (size,) = shapes["weights"]
    chain = RewardChain(quantities, size, draws, thin, width, norm, confidence)
    return Algorithm(chain.init, chain.step, chain.evaluate, chain.flops, chain.rewards)


@dataclasses.dataclass(frozen=True, eq=False)
class RewardChain:
    """The likelihood of reward weights given ranked segments, and a chain that samples their posterior."""

    quantities: Callable[..., dict[str, Array]]  # `Policy.quantities`, linear in its params
    size: int  # of the weights
    draws: int
    thin: int
    width: float
    norm: Norm
    confidence: float

    def init(self, params: Params, constants: Constants = NONE, key: PRNGKey | None = None) -> TrainState:
        policies = {
            "draws": {"weights": jnp.zeros((self.draws, self.size), params["weights"].dtype)},
            "map": {"weights": jnp.zeros_like(params["weights"])},
        }
        return TrainState(jnp.int32(0), params, (), policies, jnp.full((), -jnp.inf, params["weights"].dtype))

    def scores(self, weights: Float[Array, " m"], batch: Segments) -> Float[Array, "b k"]:
        return self.quantities({"weights": weights}, batch, ("embeddings",), None, None)["embeddings"][..., 0]

    def measured(self, params: Params, batch: Segments) -> Metrics:
        """Metrics of one vector of weights."""
        scores = self.scores(params["weights"], batch)
        losses = trajectory_bradley_terry(self.confidence * scores[:, 0], self.confidence * scores[:, 1])
        metrics = {"loss": weighted_mean(losses, batch.weights), "num_tokens": num_tokens(batch)}
        return metrics | reward_metrics(scores, None, batch, labels="index")

    def moved(self, start: Float[Array, " m"], batch: Segments, key: PRNGKey) -> RewardPosterior:
        """The chain from `start` on, given the rankings of a batch."""
        # Scores are linear, so their slope is what each weight's feature sums to.
        features = jax.jacfwd(self.scores)(jnp.zeros((self.size,), start.dtype), batch)
        first, second = features[:, 0], features[:, 1]

        def likelihood(weights: Float[Array, " m"]) -> Float[Array, ""]:
            return ranking_log_likelihood(
                weights, first, second, confidence=self.confidence, counts=batch.weights
            )

        return reward_posterior(
            likelihood,
            key,
            size=self.size,
            num_samples=self.draws,
            width=self.width,
            norm=self.norm,
            thin=self.thin,
            start=start,
        )

    def step(self, state: TrainState, batch: Segments, key: PRNGKey) -> tuple[TrainState, Metrics]:
        before = state.policies["draws"]["weights"][-1]
        anywhere, chain_key = jax.random.split(key)
        start = jnp.where(state.step == 0, jax.random.normal(anywhere, (self.size,), before.dtype), before)
        chain = self.moved(start, batch, chain_key)
        best = chain.log_likelihoods.argmax()
        highest = jnp.maximum(chain.log_likelihoods[best], state.loss_state)
        better = highest > state.loss_state
        likeliest = jnp.where(better, chain.weights[best], state.policies["map"]["weights"])
        params, one = {"weights": chain.weights.mean(0)}, jnp.float32(1)
        metrics = self.measured(params, batch) | {
            "chain/loss": Mean(-chain.log_likelihoods.mean(), batch.weights.sum()),
            "chain/accepted": Mean(chain.accepted, one),
            "chain/concentration": Mean(length(params["weights"], self.norm), one),
        }
        policies = {"draws": {"weights": chain.weights}, "map": {"weights": likeliest}}
        return TrainState(state.step + 1, params, (), policies, highest), metrics

    def evaluate(self, state: TrainState, batch: Segments, key: PRNGKey) -> Metrics:
        return self.measured(state.params, batch)

    def rewards(self, state: TrainState, batch: Segments) -> Float[Array, "b k"]:
        return self.scores(state.params["weights"], batch)

    def flops(self, batch: Segments) -> float:
        return 2.0 * self.draws * self.thin * batch.mask.shape[0] * self.size
