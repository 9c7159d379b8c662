"""Showing what was measured: an HTML page, and text for the terminal."""

from prolu_eval.report.html import write_report
from prolu_eval.report.text import frontier_text

__all__ = ["frontier_text", "write_report"]
