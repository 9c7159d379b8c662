"""Runs the command line as ``python -m prolu_eval``."""

from prolu_eval.cli import entry_point

entry_point()
