"""Tasks that say what a dictionary's features are good for, besides the text. No torch, no model.

Labelled prompts to be told apart by a probe (:mod:`prolu_eval.tasks.labelled`), and prompts with
one right continuation, made from templates (:mod:`prolu_eval.tasks.templates`).
"""
