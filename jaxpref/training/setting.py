"""What all stages of a run share."""

import dataclasses
from typing import Any

import jax

from jaxpref.experiment import Experiment
from jaxpref.policies.base import Policy
from jaxpref.training.files import RunFiles
from jaxpref.training.preemption import Preemption

__all__ = ["Setting"]


@dataclasses.dataclass(frozen=True)
class Setting:
    experiment: Experiment
    files: RunFiles
    mesh: jax.sharding.Mesh
    policy: Policy
    tokenizer: Any  # data.Tokenizer
    abstract_params: Any
    axes: Any  # logical axis names, as `policy.axes()`
    preemption: Preemption
