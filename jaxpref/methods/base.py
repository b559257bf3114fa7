"""One entry of the table of methods."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Method"]

_AUTHORS = (
    r"[A-Z][A-Za-z]+(?: et al\.| & [A-Z][a-z]+)? (?:19|20)\d\d"  # as docstrings cite what has no arXiv id
)


@dataclasses.dataclass(frozen=True)
class Method:
    """A loss, in the words of its table, and what the battery has to know of it.

    `parity` and `real` say what they are compared with, or "none: why". An empty cell fails a test.
    """

    loss: Callable[..., Any]
    title: str = ""
    formula: str = ""  # u: log-ratio to the reference, w and l: chosen and rejected, l(h) = -log sigmoid(h)
    score: str = ""  # what of a response is compared: "sum", "mean", "tokens", "rewards", ...
    defaults: str = ""  # where the defaults come from; "-" where there are none
    identities: str = ""  # what the tests of identities show
    parity: str = ""  # outside numbers
    real: str = ""  # experiment on real data
    # For the battery.
    rejects: tuple[Mapping[str, Any], ...] = ()  # hyper-parameters that must raise ValueError, one at a time
    unbounded: tuple[str, ...] = ()  # hyper-parameters of which any number will do
    at_equality: float | None = None  # value where all inputs are 1, if every input is [b]
    coupled: str = ""  # what couples the examples of a batch; "" where each stands for itself
    stops: str = ""  # what carries no gradient although it moves with the policy: no finite differences
    constants: tuple[str, ...] = ()  # float inputs beside the reference that have exactly zero gradient
    state: Callable[[], Any] | None = None  # initial state of a loss that carries one

    @property
    def name(self) -> str:
        return self.loss.__name__

    @property
    def inputs(self) -> tuple[str, ...]:
        """Parameters without default."""
        parameters = inspect.signature(self.loss).parameters.values()
        return tuple(q.name for q in parameters if q.default is q.empty)

    @property
    def reference(self) -> bool:
        """Whether it is held to a reference policy."""
        return any(name.startswith("reference") for name in self.inputs)

    @property
    def hyper_parameters(self) -> dict[str, Any]:
        """Keyword-only parameters and their defaults."""
        parameters = inspect.signature(self.loss).parameters.values()
        return {q.name: q.default for q in parameters if q.default is not q.empty}

    @property
    def sources(self) -> tuple[str, ...]:
        """arXiv ids of the docstring, or "author year" where a source has none."""
        doc = inspect.getdoc(self.loss) or ""
        identifiers = re.findall(r"arXiv:(\d{4}\.\d{4,5})", doc)
        return tuple(dict.fromkeys(identifiers)) or tuple(re.findall(_AUTHORS, doc)[:1])
