"""Which package may import which, and what the quick commands must not import."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "prolu_eval"

# Each package or module, and the project's packages that it may import (besides its own parts).
_PLAIN = {
    "errors",
    "estimates",
    "plain_text",
    "metrics",
    "runs",
    "results",
    "intervals",
    "hub",
    "releases",
    "json_text",
    "arguments",
    "run_names",
    "spelling",
}
ALLOWED = {
    "plain_text": set(),
    "spelling": set(),
    "errors": {"plain_text"},
    "estimates": set(),
    "arguments": {"errors"},
    "metrics": {"errors", "spelling"},
    "runs": {"errors"},
    "hub": {"errors", "cache", "releases"},
    "releases": {"errors"},
    "run_names": {"hub", "plain_text"},
    "results": {
        "arguments",
        "errors",
        "estimates",
        "hub",
        "json_text",
        "plain_text",
        "run_names",
        "runs",
    },
    "intervals": {"metrics", "estimates"},
    "embedded": set(),
    "activations": {"errors", "spelling"},
    "kernels": {"activations"},
    "saes": {"activations", "errors", "kernels"},
    "checkpoints": _PLAIN | {"saes"},
    "installation": {"errors"},
    "lm": {"devices", "errors", "installation", "runs", "embedded", "spelling"},
    "tokens": {
        "cache",
        "checkpoints",
        "choices",
        "embedded",
        "errors",
        "lm",
        "plain_text",
        "results",
        "runs",
    },
    "synthetic": {"choices", "devices", "errors", "results", "spelling", "tokens"},
    "dictionaries": set(),
    "tasks": {"errors", "json_text", "spelling"},
    "cache": set(),
    "choices": set(),
    "provenance": set(),
    "devices": {"errors"},
    "precision": {"choices"},
    "processes": {"errors", "json_text"},
    "cluster": {"cache", "errors", "lm", "runs", "spelling", "tokens"},
    "progress": set(),
    "evaluation": _PLAIN
    | {
        "choices",
        "cluster",
        "devices",
        "precision",
        "processes",
        "progress",
        "provenance",
        "kernels",
        "saes",
        "checkpoints",
        "lm",
        "synthetic",
        "dictionaries",
        "tasks",
        "tokens",
        "cache",
        "analysis",
    },
    "training": _PLAIN
    | {
        "activations",
        "cluster",
        "devices",
        "kernels",
        "precision",
        "processes",
        "progress",
        "provenance",
        "saes",
        "checkpoints",
        "lm",
        "synthetic",
        "tokens",
    },
    "analysis": _PLAIN,
    "learning_rates": _PLAIN | {"analysis", "evaluation", "target_l0", "training"},
    "target_l0": _PLAIN | {"checkpoints", "evaluation", "training"},
    "json_text": set(),
    "baseline": _PLAIN,
    "comparison": _PLAIN | {"analysis"},
    "render": _PLAIN | {"analysis", "comparison"},
    "publishing": _PLAIN | {"json_text", "analysis", "render"},
    "interface": _PLAIN
    | {"analysis", "baseline", "comparison", "render", "target_l0", "training", "checkpoints"},
    "pytest_plugin": {"errors", "interface", "comparison", "render"},
}
TORCHLESS = (
    "metrics", "runs", "run_names", "hub", "releases", "results", "intervals", "analysis",
    "baseline", "comparison", "render", "render.page", "render.comparison_page",
    "render.documents", "pytest_plugin", "interface", "tasks.labelled", "tasks.templates",
)  # fmt: skip
_OUTSIDE_ONLY_IN = {"transformer_lens": {"lm"}, "moocore": {"analysis"}, "typer": {"cli"}}


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, anywhere in it."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def unit(path: Path) -> str:
    """The module or package of this project to which a file belongs."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_only_what_it_may(path: Path) -> None:
    own = unit(path)
    modules = {p.name.removesuffix(".py") for p in PACKAGE.iterdir()}
    for name in imports(path):
        first, *rest = name.split(".")
        if first == "prolu_eval" and rest and rest[0] in modules - {own}:
            assert rest[0] != "cli" or own == "__main__", "nothing imports the command line"
            assert own not in ALLOWED or rest[0] in ALLOWED[own], f"{own} imports {name}"
        if first in _OUTSIDE_ONLY_IN:
            assert own in _OUTSIDE_ONLY_IN[first], f"{own} imports {name}"


def test_every_unit_has_a_rule() -> None:
    free = {"__init__", "__main__", "cli"}
    assert {unit(path) for path in FILES} - free <= ALLOWED.keys()


def loaded_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


def test_the_command_line_answers_without_heavy_imports() -> None:
    loaded = loaded_after("from prolu_eval.cli import main\nmain(['--help'])")
    assert loaded.isdisjoint({"torch", "transformer_lens", "pandas", "plotly", "numpy"})
    assert loaded_after("import prolu_eval").isdisjoint({"torch", "pandas"})


def test_results_are_read_without_torch() -> None:
    there = [n for n in TORCHLESS if (PACKAGE / n).exists()
             or (PACKAGE / f"{n.replace('.', '/')}.py").exists()]  # fmt: skip
    assert len(there) > 10
    statement = f"""
import importlib, sys
for name in {there}:
    importlib.import_module("prolu_eval." + name)
    assert sys.modules.keys().isdisjoint({{"torch", "transformer_lens", "transformers"}}), name
"""
    loaded_after(statement)


def test_every_package_that_is_imported_is_declared() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *(n for e in project["optional-dependencies"].values() for n in e),
    ]
    declared = {re.split(r"[^\w-]", name)[0].lower().replace("-", "_") for name in asked}
    renamed = {"yaml": "pyyaml", "sklearn": "scikit_learn"}
    found = {name.split(".")[0] for path in FILES for name in imports(path)}
    outside = found - set(sys.stdlib_module_names) - {"prolu_eval"}
    assert {renamed.get(name, name) for name in outside} <= declared
