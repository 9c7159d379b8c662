"""Dictionaries as sets of directions: which directions agree, and how they are arranged."""
