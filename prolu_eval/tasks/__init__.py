"""Tasks that test what a dictionary's features are useful for, made without torch or a model.

There are labelled prompts, whose classes a probe is to tell apart
(:mod:`prolu_eval.tasks.labelled`), and prompts with known right continuations, made from templates
(:mod:`prolu_eval.tasks.templates`).
"""
