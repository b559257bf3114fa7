"""Text and numbers made readable for the page. The templates escape it (`template`)."""

import dataclasses
import math
import re
from typing import Any

__all__ = ["Cell", "clean", "interval", "items", "seconds", "signed", "value"]

_CONTROL = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}
# Characters that turn the direction of what follows them could make the page lie about a sample.
_DIRECTION = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
MISSING = "–"


def clean(content: Any) -> str:
    """Text that can be drawn: control characters as symbols, direction marks and lone surrogates replaced."""
    visible = str(content).replace("\r\n", "\n").translate(_CONTROL)
    return _DIRECTION.sub("\ufffd", visible).encode("utf-8", "replace").decode("utf-8")


def value(number: float | None) -> str:
    """About four significant digits: 0.596, 12.3, 1,234, 1.2e-05; a dash for None and NaN."""
    if number is None or math.isnan(number):
        return MISSING
    if math.isinf(number):
        return "∞" if number > 0 else "-∞"
    size = abs(number)
    if size == 0:
        return "0"
    if size < 1e-3 or size >= 1e7:
        return f"{number:.2e}"
    if size < 1:
        return f"{number:.3f}"
    if size < 10:
        return f"{number:.2f}"
    return f"{number:.1f}" if size < 1000 else f"{number:,.0f}"


def signed(number: float) -> str:
    formatted = value(number)
    return f"+{formatted}" if number > 0 else formatted


def interval(low: float, high: float, sign: bool = False) -> str:
    """`[low, high]`, `exact` where that has no width, or nothing where there is no interval."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    if low == high:
        return "exact"
    show = signed if sign else value
    return f"[{show(low)}, {show(high)}]"


def items(count: int | None, clusters: int | None) -> str:
    """`240 in 120 groups`; empty where it was not recorded."""
    groups = f" in {clusters:,} group{'s' * (clusters != 1)}" if clusters is not None else ""
    return "" if count is None else f"{count:,}{groups}"


def seconds(duration: float) -> str:
    """`48 s`, `3 min 20 s`, `2 h 05 min`."""
    if not math.isfinite(duration):
        return MISSING
    whole = round(duration)
    if whole < 60:
        return f"{duration:.1f} s" if duration < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number in a table: `0.596 [0.51, 0.68] ★`."""

    shown: str
    limits: str | None = None  # of its confidence interval; None: no place is kept for one
    after: str = ""
    best: bool = False
    size: str = ""  # what the number is a mean over
