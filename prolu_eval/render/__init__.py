"""Every face of what was measured: pages, figures, terminal, Markdown, JUnit, GitHub, files.

Faces compute nothing: they show an answer of :mod:`prolu_eval.analysis` or a comparison.
"""
