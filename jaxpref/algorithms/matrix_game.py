"""Exact dynamics of a preference game on a table of policies: no sampling, no gradient, no optimizer."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpref import games
from jaxpref.algorithms.base import NONE, Algorithm, Constants, num_tokens
from jaxpref.algorithms.inputs import bind, loss_name
from jaxpref.environments.base import Game
from jaxpref.metrics import Mean, Metrics, weighted_mean
from jaxpref.policies.base import Policy, without_constants
from jaxpref.types import Completions, Params, PRNGKey

__all__ = ["Dynamics", "MatrixGameState", "matrix_game"]

_OFFERED = ("preferences", "log_policy", "log_average", "log_reference", "tau", "eta")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MatrixGameState:
    """The policy, and the mean of all policies after the first one."""

    step: Int[Array, ""]  # updates done
    params: Params  # {"logits": [x, y]}
    average: Float[Array, "x y"]  # probabilities; the first policy itself before any update
    bound: Float[Array, ""]  # on KL(equilibrium || policy), nats, where the theorem holds


def matrix_game(
    policy: Policy,
    *,
    game: Callable[[], Game],
    update: Callable[..., Array],
    tau: float,
    step_size: Callable[..., Any] = games.decaying_step_size,
    bound: Callable[..., Any] | None = None,
) -> Algorithm:
    """Plays `update` on all prompts of `game` at once. The batch only says that it is time for a step.

    Params are `{"logits": [x, y]}`, as those of `policies.tabular` with `length=1`: prompt and response of a
    record are their numbers. Metrics are means over prompts, about the policy before the update:

      loss, duality_gap   of the regularised game (`games.duality_gap`), nats times tau: win rate
      exploitability      of the game as it is; average/exploitability of the mean policy
      kl/equilibrium      KL(equilibrium || policy) to the regularised equilibrium, nats; kl/reference
      kl/bound            what `bound` guarantees for kl/equilibrium

    Args:
      game: builds the environment.
      update: a step of `games`, such as `games.nash_md_step`, or yours: it names what it takes out of
        preferences `[x, y, y]`, log_policy, log_average, log_reference `[x, y]`, tau and eta.
      tau: price of the KL to the reference. Gap and equilibrium are those of the regularised game, also
        where `update` does not name it.
      step_size: `(step, tau) -> eta`, such as `games.decaying_step_size`.
      bound: `(kl, tau, eta) -> kl`, what is known of one step: `games.nash_md_step_bound` for Nash-MD.

    Raises:
      ValueError: the policy is not a table of this game, `update` asks for something else, or eta tau is
        outside [0, 1] where `update` takes both (a negative share of the policy).
    """
    without_constants(policy, "matrix_game")
    played = game()
    names = _check_update(update)
    if {"tau", "eta"} <= set(names):
        _check_step_size(step_size, tau)
    equilibrium = games.regularised_nash(played.preferences, played.reference, tau)
    _check_policy(policy, played.reference.shape)
    dynamics = Dynamics(played, equilibrium, update, tau, step_size, bound)

    def rewards(state: MatrixGameState, batch: Completions) -> Float[Array, "b k"]:
        """tau * log(policy / reference): what the responses are worth at equilibrium, up to a constant."""
        reference = {"logits": _held(np.log(played.reference), state.params["logits"])}
        logps = policy.token_logps(state.params, batch) - policy.token_logps(reference, batch)
        return tau * logps.sum(-1)

    flops = 2.0 * played.preferences.size  # one product of the matrix and a policy
    return Algorithm(dynamics.init, dynamics.step, dynamics.evaluate, lambda batch: flops, rewards)


@dataclasses.dataclass(frozen=True, eq=False)
class Dynamics:
    """A game, the rule by which its policy moves, and what is measured on the way."""

    game: Game
    equilibrium: Float[np.ndarray, "x y"]  # of the regularised game, probabilities
    update: Callable[..., Array]
    tau: float
    step_size: Callable[..., Any]
    bound: Callable[..., Any] | None

    def init(
        self, params: Params, constants: Constants = NONE, key: PRNGKey | None = None
    ) -> MatrixGameState:
        kl = self.to_equilibrium(params).mean()
        return MatrixGameState(jnp.int32(0), params, jnp.exp(_log_policy(params)), kl)

    def to_equilibrium(self, params: Params) -> Float[Array, " x"]:
        """KL(equilibrium || policy), nats."""
        return games.kl_divergence(_held(self.equilibrium, params["logits"]), _log_policy(params))

    def measure(self, state: MatrixGameState, batch: Completions) -> Metrics:
        log_pi = _log_policy(state.params)
        p, ref = _held(self.game.preferences, log_pi), _held(np.log(self.game.reference), log_pi)
        gap = weighted_mean(games.duality_gap(p, log_pi, ref, self.tau))
        measured = {
            "exploitability": games.exploitability(p, log_pi),
            "average/exploitability": games.exploitability(p, jnp.log(state.average)),
            "kl/equilibrium": self.to_equilibrium(state.params),
            "kl/reference": games.kl_divergence(log_pi, ref),
        }
        metrics = {"loss": gap, "duality_gap": gap, "num_tokens": num_tokens(batch)}
        metrics |= {name: weighted_mean(values) for name, values in measured.items()}
        return metrics | ({} if self.bound is None else {"kl/bound": Mean(state.bound, jnp.float32(1))})

    def step(
        self, state: MatrixGameState, batch: Completions, key: PRNGKey
    ) -> tuple[MatrixGameState, Metrics]:
        log_pi = _log_policy(state.params)
        done = state.step.astype(log_pi.dtype)
        eta = self.step_size(done, self.tau)
        offered = {
            "preferences": _held(self.game.preferences, log_pi),
            "log_policy": log_pi,
            "log_average": jnp.log(state.average),
            "log_reference": _held(np.log(self.game.reference), log_pi),
            "tau": self.tau,
            "eta": eta,
        }
        new = bind(self.update, offered)
        average = (state.average * done + jnp.exp(new)) / (done + 1)
        bound = state.bound if self.bound is None else self.bound(state.bound, self.tau, eta)
        return MatrixGameState(state.step + 1, {"logits": new}, average, bound), self.measure(state, batch)

    def evaluate(self, state: MatrixGameState, batch: Completions, key: PRNGKey) -> Metrics:
        return self.measure(state, batch)


def _log_policy(params: Params) -> Float[Array, "x y"]:
    return jax.nn.log_softmax(params["logits"], -1)


def _held(values: np.ndarray, logits: Array) -> Array:
    return jnp.asarray(values, logits.dtype)


def _check_policy(policy: Policy, shape: tuple[int, ...]) -> None:
    given = jax.eval_shape(policy.init, jax.random.key(0))
    if not isinstance(given, dict) or set(given) != {"logits"} or given["logits"].shape != shape:
        raise ValueError(
            f"matrix_game: expected a policy with params {{'logits': {list(shape)}}}, got "
            f"{jax.tree.map(lambda x: list(x.shape), given)}; use policies.tabular(prompts={shape[0]}, "
            f"vocab={shape[1]}, length=1)"
        )


def _check_update(update: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(update).parameters.values()
    names = [p.name for p in parameters if p.default is p.empty]
    unknown = [name for name in names if name not in _OFFERED]
    if unknown:
        raise ValueError(
            f"matrix_game: update {loss_name(update)} asks for {unknown[0]!r}; there are "
            f"{', '.join(_OFFERED)}, and what else it takes is bound with functools.partial"
        )
    return names


def _check_step_size(step_size: Callable[..., Any], tau: float) -> None:
    if not tau > 0:
        raise ValueError(f"tau: expected a number above 0, got {tau}")
    share = float(step_size(0, tau)) * tau
    if not 0 <= share <= 1 + 1e-9:
        raise ValueError(
            f"step_size: eta * tau is the share of the reference in a step, expected 0 to 1, got {share:.3g} "
            f"at the first step; lower eta to {1 / tau:.3g} or less"
        )
