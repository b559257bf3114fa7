"""Reads run directories and writes a page that one can put before colleagues.

`runs` reads, each section (`cards`, `curves`, `samples`, ...) decides what is shown, `figures` draws, and the
Jinja templates of `templates/` make the HTML, with everything escaped that they show (`template`).
"""

from jaxpref.report.page import write_report

__all__ = ["write_report"]
