"""The user's cache folder, for files that can always be made again.

The environment variable ``PROLU_EVAL_CACHE`` moves it.
"""

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """``$PROLU_EVAL_CACHE``, or else ``prolu-eval`` in the platform's folder for caches.

    That folder is ``$XDG_CACHE_HOME`` or ``~/.cache`` on Linux, and ``~/Library/Caches`` on macOS.
    """
    if own := os.environ.get("PROLU_EVAL_CACHE"):
        return Path(own)
    return user_cache_path("prolu-eval", appauthor=False)
