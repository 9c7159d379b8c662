"""The user's cache folder: what can always be made again. ``PROLU_EVAL_CACHE`` moves it."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$PROLU_EVAL_CACHE``, else ``prolu-eval`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("PROLU_EVAL_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prolu-eval"
