"""Reads run directories and writes a page about them, to share with others.

`runs` reads, each section (`cards`, `curves`, `samples`, ...) decides what is shown, `figures` draws, and the
Jinja templates of `templates/` make the HTML and escape everything that they show (`template`).
"""

from jaxpref.report.page import write_report

__all__ = ["write_report"]
