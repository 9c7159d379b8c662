"""Dictionaries as sets of directions: which of them are the same, and how they lie."""
