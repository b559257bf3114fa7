"""Which implementation runs: decided from shapes and the machine while tracing and logged once, or forced."""

import dataclasses
import functools
import logging
from collections.abc import Callable

from jaxpref.kernels.machines import Machine, current_machine
from jaxpref.kernels.partition import kernels_are_placed
from jaxpref.kernels.token_logps import fold, xla
from jaxpref.kernels.token_logps.block_sizes import blocks_for

__all__ = ["IMPLEMENTATIONS", "Plan", "Shape", "Step", "plan_for"]

logger = logging.getLogger("jaxpref.kernels")

# Recomputing the logits costs 2 n d v FLOPs; keeping float32 ones costs 24 n v bytes of traffic. So keeping
# them is faster where d is beyond this many FLOPs a byte.
_FLOAT32_LOGITS = 12


@dataclasses.dataclass(frozen=True)
class Shape:
    """What one device has to do."""

    rows: int
    vocab: int
    embed: int

    @property
    def logits_bytes(self) -> int:
        return 4 * self.rows * self.vocab

    def __str__(self) -> str:
        return f"{self.rows:,} rows, vocabulary {self.vocab:,}, width {self.embed:,}"


@dataclasses.dataclass(frozen=True)
class Step:
    """One implementation: a fold, and the gradient that goes with it."""

    name: str
    fold: Callable
    gradient: Callable
    fold_block: int
    gradient_block: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """`scoring` runs where no gradient is wanted, `training` where one is."""

    shape: Shape
    scoring: Step
    training: Step

    def announce(self, step: Step) -> None:
        kind = "values and gradients" if step is self.training else "values"
        _announce(f"token_logps: {step.name} for {kind} of {self.shape}: {step.reason}")


@functools.lru_cache(maxsize=256)
def _announce(line: str) -> None:
    logger.info(line)


def _pallas_tpu_fold(*args):
    from jaxpref.kernels.token_logps.pallas_tpu import pallas_tpu_fold  # a third of a second to import

    return pallas_tpu_fold(*args)


def _pallas_gpu_fold(*args):
    from jaxpref.kernels.token_logps.pallas_gpu import pallas_gpu_fold

    return pallas_gpu_fold(*args)


def _pallas_gpu_fused_fold(*args):
    from jaxpref.kernels.token_logps.pallas_gpu_fused import pallas_gpu_fused_fold

    return pallas_gpu_fused_fold(*args)


_FOLDS: dict[str, Callable] = {
    "materialized": xla.materialized_fold,
    "vocab_scan": xla.vocab_scan_fold,
    "token_scan": xla.token_scan_fold,
    "pallas_tpu": _pallas_tpu_fold,
    "pallas_gpu": _pallas_gpu_fold,
    "pallas_gpu_fused": _pallas_gpu_fused_fold,
}
_GRADIENTS: dict[str, Callable] = {
    "materialized": xla.materialized_gradient,
    "vocab_scan": xla.vocab_scan_gradient,
    "token_scan": xla.token_scan_gradient,
}
_GRADIENT_OF = {"pallas_tpu": "vocab_scan", "pallas_gpu": "vocab_scan", "pallas_gpu_fused": "vocab_scan"}
IMPLEMENTATIONS = (*_FOLDS, "reference")


def _step(name: str, shape: Shape, machine: Machine, reason: str, block: int | None) -> Step:
    blocks = blocks_for(machine, rows=shape.rows, vocab=shape.vocab)
    gradient = _GRADIENT_OF.get(name, name)
    by_tokens = ("token_scan", "pallas_gpu")
    fold_block = blocks.tokens if name in by_tokens else blocks.vocab
    if name == "pallas_tpu":
        fold_block = 0  # has a table of its own
    gradient_block = blocks.tokens if gradient in by_tokens else blocks.vocab
    return Step(
        name, _FOLDS[name], _GRADIENTS[gradient], block or fold_block, block or gradient_block, reason
    )


def _choice(
    shape: Shape, machine: Machine, statistics: tuple[str, ...], *, training: bool
) -> tuple[str, str]:
    """The rule: (implementation, why)."""
    blocks = blocks_for(machine, rows=shape.rows, vocab=shape.vocab)
    size = f"float32 logits take {shape.logits_bytes / 2**20:,.0f} MiB"
    budget = f"{machine.logits_budget / 2**20:,.0f} MiB may be kept"
    if training and shape.logits_bytes <= machine.logits_budget:
        if blocks.vocab >= shape.vocab:
            return "materialized", f"{size}, a single block"
        if shape.embed > _FLOAT32_LOGITS * machine.intensity:
            return "materialized", f"{size}, {budget}, and computing them twice would take longer"
    if machine.platform == "tpu" and kernels_are_placed() and not set(statistics) & set(fold.KL):
        return "pallas_tpu", f"{size}, none are kept"
    if blocks.vocab >= shape.vocab and shape.logits_bytes > machine.logits_budget:
        return "token_scan", f"{size} in a single block of the vocabulary, so tokens are split"
    return "vocab_scan", f"{size}, none are kept" + (f" ({budget})" if training else "")


def plan_for(
    shape: Shape,
    statistics: tuple[str, ...] = (),
    *,
    implementation: str | None = None,
    block: int | None = None,
) -> Plan:
    """Steps for this shape on the machine in context.

    Args:
      implementation: a name from `IMPLEMENTATIONS` but `reference`, for both steps; None decides.
      block: size of the blocks; None takes `block_sizes`.

    Returns:
      The step where no gradient is wanted, and the one where one is.

    Raises:
      ValueError: no implementation of that name, or it cannot run here or give these statistics.

    Example:
      >>> from jaxpref.kernels.token_logps.dispatch import Shape, plan_for
      >>> plan = plan_for(Shape(rows=8, vocab=100, embed=16), implementation="vocab_scan", block=50)
      >>> print(plan.training.name, plan.training.fold_block, plan.training.reason)
      vocab_scan 50 asked for
    """
    machine = current_machine()
    if implementation is not None:
        _check(implementation, machine, statistics)
        step = _step(implementation, shape, machine, "asked for", block)
        return Plan(shape, step, step)

    def chosen(training: bool) -> Step:
        name, reason = _choice(shape, machine, statistics, training=training)
        return _step(name, shape, machine, reason, block)

    return Plan(shape, chosen(False), chosen(True))


def _check(name: str, machine: Machine, statistics: tuple[str, ...]) -> None:
    if name not in _FOLDS:
        raise ValueError(f"implementation={name!r}: there are {', '.join(IMPLEMENTATIONS)}")
    if name.startswith("pallas") and set(statistics) & set(fold.KL):
        raise ValueError(f"implementation={name!r} gives no KL; use vocab_scan, or None to choose")
