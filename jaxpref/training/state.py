"""The state of a stage: the part that training changes, and the constants beside it.

The part that changes is donated from step to step and saved. Constants (judges, critics, the base below
adapters) are loaded once onto the mesh; they are neither donated nor saved, and a checkpoint has their
fingerprints alone.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax

from jaxpref import keys
from jaxpref.algorithms import Algorithm
from jaxpref.experiment import Stage
from jaxpref.training import sharding
from jaxpref.training.checkpoint import Checkpoints
from jaxpref.training.constants import check_same, loaded
from jaxpref.training.context import RunContext
from jaxpref.training.params import has_checkpoints, stage_checkpoints, started_from
from jaxpref.types import Params

__all__ = ["Layout", "abstract_state", "moving", "trained_state", "with_constants"]


def moving(state: Any) -> Any:
    """`state` without its constants."""
    return dataclasses.replace(state, constants={}) if hasattr(state, "constants") else state


def with_constants(state: Any, constants: Mapping[str, Params]) -> Any:
    """The state as algorithms see it."""
    return dataclasses.replace(state, constants=dict(constants)) if hasattr(state, "constants") else state


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the state of an algorithm lies on a mesh, with its constants there already."""

    algorithm: Algorithm
    constants: dict[str, Params]
    fingerprints: dict[str, str]  # of the constants, by name
    abstract: Any  # of what moves
    shardings: Any

    @classmethod
    def of(cls, run: RunContext, algorithm: Algorithm) -> "Layout":
        """Loads the constants of policy and algorithm, and lays everything out."""
        constants = run.constants
        if algorithm.constants is not None:
            constants |= loaded(algorithm.constants(), run.mesh, constants.arrays)
        abstract, shardings = abstract_state(
            algorithm, run.abstract_params, constants.params, run.axes, run.mesh
        )
        return cls(algorithm, constants.params, constants.fingerprints, abstract, shardings)

    def start(self, params: Params, key: Any) -> Any:
        """The state without constants, at the beginning of a stage that starts from `params`."""

        started = jax.jit(functools.partial(_started, self.algorithm), out_shardings=self.shardings)
        return started(params, self.constants, key)

    def restore(
        self, checkpoints: Checkpoints, step: int, *, other_base: bool = False
    ) -> tuple[Any, dict[str, Any]]:
        """The state without constants and the meta of a checkpoint.

        Raises:
          ValueError: it was written beside other constants; with `other_base`, than the policy's own.
        """
        target = sharding.with_shardings(self.abstract, self.shardings)
        state, meta = checkpoints.restore(step, target)
        both = (meta.get("constants", {}), self.fingerprints)
        left = {"policy"} if other_base else set()
        check_same(checkpoints.directory, *({n: x for n, x in one.items() if n not in left} for one in both))
        return state, meta


def abstract_state(
    algorithm: Algorithm, params: Params, constants: Mapping[str, Params], axes: Any, mesh: jax.sharding.Mesh
) -> tuple[Any, Any]:
    """Shapes of the state without constants, and its shardings; `params`, `constants` may be shapes, too."""
    start = functools.partial(_started, algorithm)
    abstract = jax.eval_shape(start, params, constants, jax.random.key(0))
    return abstract, sharding.state_shardings(abstract, params, axes, mesh)


def _started(algorithm: Algorithm, params: Params, constants: Mapping[str, Params], key: Any) -> Any:
    return moving(algorithm.init(params, constants, key))


def trained_state(run: RunContext, stage: Stage, algorithm: Algorithm, step: int | None = None) -> Any:
    """The whole state of the best (or named) checkpoint of a stage, so that a policy which the stage copies
    or averages is the one it had. Without a checkpoint: what training would start with."""
    layout = Layout.of(run, algorithm)
    if has_checkpoints(run, stage.name):
        with stage_checkpoints(run, stage.name) as checkpoints:
            checkpoint_step = checkpoints.best if step is None else step
            if checkpoint_step is not None:
                state, _ = layout.restore(checkpoints, checkpoint_step, other_base=run.other_base)
                return with_constants(state, layout.constants)
    key = keys.key(run.experiment.seed, stage.name, "start")
    return with_constants(layout.start(started_from(run, stage.name), key), layout.constants)
