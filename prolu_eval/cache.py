"""The user's cache folder: what can always be made again. ``PROLU_EVAL_CACHE`` moves it."""

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """``$PROLU_EVAL_CACHE``, else the platform's folder for caches.

    That is ``prolu-eval`` in ``$XDG_CACHE_HOME`` or ``~/.cache`` on Linux, in ``~/Library/Caches``
    on macOS.
    """
    if own := os.environ.get("PROLU_EVAL_CACHE"):
        return Path(own)
    return user_cache_path("prolu-eval", appauthor=False)
