"""What all stages of a run share."""

import dataclasses
import functools
from typing import Any

import jax

from jaxpref.experiment import Experiment
from jaxpref.policies.base import Policy, whole
from jaxpref.training.constants import Loaded, loaded
from jaxpref.training.files import RunFiles
from jaxpref.training.job import current
from jaxpref.training.preemption import Preemption
from jaxpref.training.profiling import Window
from jaxpref.training.sources import Source
from jaxpref.types import Params

__all__ = ["RunContext"]


@dataclasses.dataclass(frozen=True)
class RunContext:
    experiment: Experiment
    files: RunFiles
    mesh: jax.sharding.Mesh
    policy: Policy
    tokenizer: Any  # data.Tokenizer
    abstract_params: Any
    axes: Any  # logical axis names, as `policy.axes()`
    preemption: Preemption
    allow_changes: bool = False  # go on beside other content than the checkpoints were written with
    other_base: bool = False  # read its adapters above another base than they were trained above
    profile: Window | None = None  # steps to trace
    tables: dict[int, tuple[Source, Any]] = dataclasses.field(default_factory=dict)  # see `table`

    def table(self, source: Source) -> Any:
        """What a data source gives, loaded once for the checks and loaders of a stage, which `tables.clear()`
        ends: so its content is read once, too (`data.content`)."""
        if id(source) not in self.tables:
            self.tables[id(source)] = (source, source())
        return self.tables[id(source)][1]

    def was_cut_short(self, stage: str, step: int | None) -> bool:
        """Whether the evaluation after a step is still to be made: what the first process sees."""
        return current().of_first("cut", lambda: self.files.was_cut_short(stage, step))

    @functools.cached_property
    def constants(self) -> Loaded:
        """The policy's own constants, under the name "policy"."""
        own = self.policy.constants
        return loaded({} if own is None else {"policy": own()}, self.mesh, {})

    def whole(self, params: Params) -> Params:
        """`params` with the policy's constants, as its functions take them."""
        return whole(params, self.constants.params)
