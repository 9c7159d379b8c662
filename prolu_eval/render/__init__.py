"""Every output format of results: pages, figures, terminal, Markdown, JUnit, GitHub, files.

Nothing is computed here: each format shows an answer of :mod:`prolu_eval.analysis` or a comparison.
"""
