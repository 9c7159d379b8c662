"""Telling what is wrong with the installation when a package cannot be imported."""

import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from traceback import walk_tb

from prolu_eval.errors import InstallationError

_OWN = "prolu_eval"
# Packages that are installed under another name than they are imported by.
_INSTALLED_AS = {"yaml": "pyyaml", "sklearn": "scikit-learn", "PIL": "pillow"}


def broken_installation(error: BaseException) -> InstallationError | None:
    """What to say of an exception that was raised because a package cannot be imported.

    Such an exception is an ``ImportError``, or any other that another package's own code raised
    while it was imported, such as that of a torchvision that was built for another torch. Where an
    exception was raised from another one, the first of them is the one that says what is wrong.

    Returns:
        The error, which names the package, the reason and the command that mends it; None if the
        exception is of another kind.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    named = _top(getattr(error, "name", None) or "") if isinstance(error, ImportError) else ""
    importing = list(_importing(error))
    if isinstance(error, ModuleNotFoundError) and named and not _is_there(named):
        needing = f"{_distribution(importing[-1])} needs it" if importing else "it is needed"
        return InstallationError(
            _distribution(named),
            f"is not installed, and {needing}",
            f"install it with `pip install {_required(named)}`",
        )
    if isinstance(error, ImportError) and not named and not importing:
        at = _top(_modules(error)[-1])
        remedy = "install what it names with pip"
        return InstallationError(_distribution(at), f"lacks a package ({_line(error)})", remedy)
    if not isinstance(error, ImportError) and not importing:
        return None
    at = importing[-1] if importing else named
    both = dict.fromkeys(name for name in (at, named) if name)
    command = " ".join(["pip install --force-reinstall", *map(_required, both)])
    return InstallationError(
        _distribution(at),
        f"is installed, but cannot be imported ({_line(error)})",
        f"reinstall it with `{command}`",
    )


def _importing(error: BaseException) -> Iterator[str]:
    """The other packages that were being imported when an exception was raised, the last last."""
    for frame, _ in walk_tb(error.__traceback__):
        package = _top(str(frame.f_globals.get("__name__")))
        if frame.f_code.co_name == "<module>" and package not in (
            _OWN, "__main__", *sys.stdlib_module_names
        ):  # fmt: skip
            yield package


def _modules(error: BaseException) -> list[str]:
    return [str(f.f_globals.get("__name__")) for f, _ in walk_tb(error.__traceback__)] or [_OWN]


def _top(module: str) -> str:
    return module.partition(".")[0]


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _line(error: BaseException) -> str:
    """The first line of what an exception says, without a full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _distribution(package: str) -> str:
    """The name under which a package is installed."""
    name = _INSTALLED_AS.get(package, package.replace("_", "-"))
    try:
        return str(metadata.distribution(name).metadata["Name"])
    except metadata.PackageNotFoundError:
        return metadata.packages_distributions().get(package, [name])[0]


def _required(package: str) -> str:
    """A package as pip is told to install it, in a version that prolu-eval works with."""
    name = _distribution(package)
    for wanted in metadata.requires("prolu-eval") or ():
        specification = wanted.partition(";")[0].strip()
        if specification.rstrip("0123456789.,<>=!~ ").lower() == name.lower():
            return specification if specification == name else f"'{specification}'"
    return name
