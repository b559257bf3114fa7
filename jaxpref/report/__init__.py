"""Reads run directories and writes a page that one can put before colleagues."""

from jaxpref.report.page import write_report

__all__ = ["write_report"]
