"""What something was measured or trained with: versions and hardware."""

import importlib.metadata
import platform
from typing import Any

import torch

from prolu_eval import __version__

_PACKAGES = ("torch", "transformer-lens", "transformers")


def environment() -> dict[str, Any]:
    """Versions and hardware of this process."""
    return {
        "prolu-eval": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }
