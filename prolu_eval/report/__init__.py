"""Showing what was measured: an HTML page, figures for papers, and text for the terminal."""

from prolu_eval.report.html import answer_results, write_report
from prolu_eval.report.text import frontier_text

__all__ = ["answer_results", "frontier_text", "write_report"]
