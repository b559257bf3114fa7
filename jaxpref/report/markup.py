"""Text and numbers made safe and readable for the page."""

import html
import math
import re
from typing import Any

__all__ = ["clean", "interval", "signed", "text", "value"]

_CONTROL = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}
# Characters that turn the direction of what follows them could make the page lie about a sample.
_DIRECTION = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
MISSING = "–"


def clean(content: Any) -> str:
    """Text that can be drawn: control characters as symbols, direction marks and lone surrogates replaced."""
    visible = str(content).replace("\r\n", "\n").translate(_CONTROL)
    return _DIRECTION.sub("\ufffd", visible).encode("utf-8", "replace").decode("utf-8")


def text(content: Any) -> str:
    """`clean`, and escaped for HTML content and attributes."""
    return html.escape(clean(content), quote=True)


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
    """`[low, high]`, or nothing where there is no interval."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    show = signed if sign else value
    return f"[{show(low)}, {show(high)}]"


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


def table(header: list[str], rows: list[list[str]], css: str = "", first_is_text: int = 1) -> str:
    """A table of ready HTML cells; the first `first_is_text` columns are left-aligned."""
    head = "".join(f"<th{_align(i, first_is_text)}>{cell}</th>" for i, cell in enumerate(header))
    body = "".join(
        "<tr>"
        + "".join(f"<td{_align(i, first_is_text)}>{cell}</td>" for i, cell in enumerate(row))
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="scroll"><table class="{css}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _align(column: int, first_is_text: int) -> str:
    return "" if column < first_is_text else ' class="number"'
