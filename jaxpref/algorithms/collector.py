"""From the prompts of a batch to judged records: what an online algorithm does before its step."""

import dataclasses
import functools
from collections.abc import Callable

import jax

from jaxpref.algorithms.base import TrainState
from jaxpref.algorithms.collected import DrawRecords, behind, drawn_metrics, with_values
from jaxpref.judges import Judge, Scorer
from jaxpref.metrics import Metrics
from jaxpref.policies.base import Policy
from jaxpref.types import Completions, PRNGKey

__all__ = ["Selector", "Collector"]

Selector = Callable[[Completions, PRNGKey], Completions]


@dataclasses.dataclass(frozen=True, eq=False)
class Collector:
    """Draws responses, values and scores them, has them judged, and selects what to learn from.

    Not compiled as a whole, since scorers and judges may read values on the host; its parts are.
    """

    draw: DrawRecords
    # Puts the responses of the records in front of those drawn: HyPO, SPAC, SPIN.
    hybrid: bool = False
    critic: Policy | None = None  # adds the values that the update is compared with
    scorer: Scorer | None = None  # its scores `[b, k]` become the column `scores`
    judge: Judge | None = None  # its `P [b, k, k]` becomes `preferences`
    # What to learn from out of the k responses (`jaxpref.selection`); by default all of them, in the order
    # drawn, or for hybrid records the recorded responses and then those drawn.
    select: Selector | None = None
    contested: bool = False  # whether the policy's own responses meet those of others

    def __call__(self, state: TrainState, batch: Completions, key: PRNGKey) -> tuple[Completions, Metrics]:
        """The record that `step` takes, and metrics of what was drawn."""
        everyone = state.everyone
        draw_key, select_key = jax.random.split(key)
        record = self.draw(everyone, batch, draw_key, state.step)
        if self.hybrid:
            record = _behind(batch, record)
        if self.critic is not None:
            record = _with_values(self.critic, everyone["policy"], record)
        if self.scorer is not None:
            scores = self.scorer(everyone, record)
            record = dataclasses.replace(record, columns=record.columns | {"scores": scores})
        if self.judge is not None:
            record = dataclasses.replace(record, preferences=self.judge(everyone, record))
        metrics = _drawn_metrics(record, contested=self.contested)
        return record if self.select is None else self._selected(record, select_key), metrics

    @functools.cached_property
    def _selected(self) -> Selector:
        assert self.select is not None
        return jax.jit(self.select)


_behind = jax.jit(behind)
_with_values = jax.jit(with_values, static_argnums=0)
_drawn_metrics = jax.jit(drawn_metrics, static_argnames="contested")
