"""The numbers with intervals in reports/README.md are those of the tables beside it.

That the tables follow from the stored results is shown in ``reproduced.py``.
"""

import importlib.util
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from prolu_eval.baseline import load_baseline
from prolu_eval.provenance import environment
from prolu_eval.results import write_result
from tests.helpers.synthetic import Sae, result

REPORTS = Path(__file__).parent.parent.parent / "reports"
MODELS = ("stories260k", "embedded", "smollm2")  # in the order of README's columns
_NUMBER = r"[-+]?[0-9]+(?:[.][0-9]+)?"
_INTERVAL = re.compile(rf"({_NUMBER}) \[({_NUMBER}), ({_NUMBER})\]")

Interval = tuple[Decimal, ...]


def intervals(text: str) -> list[Interval]:
    """Each value of a text that has an interval: value, low, high."""
    return [tuple(map(Decimal, match.groups())) for match in _INTERVAL.finditer(text)]


def quoted(readme: str) -> list[tuple[str, Interval]]:
    """The models and values with intervals that a README quotes."""
    lines = readme.splitlines()
    text = " ".join(line for line in lines if not line.startswith("|"))
    found = [(" ".join(MODELS), interval) for interval in intervals(text)]
    for line in lines:
        if line.startswith("| "):
            _, *cells = line.strip("| ").split(" | ")
            assert len(cells) <= len(MODELS), line
            for model, cell in zip(MODELS, cells, strict=False):
                found += [(model, interval) for interval in intervals(cell)]
    return found


def rounded_alike(quoted: Interval, measured: Interval) -> bool:
    """Whether one is the other with fewer digits, as a saving or as a cost."""

    def same(one: Interval, other: Interval) -> bool:
        half = [Decimal(5).scaleb(int(a.as_tuple().exponent) - 1) for a in one]
        return all(abs(a - b) <= h for a, b, h in zip(one, other, half, strict=True))

    value, low, high = measured
    return same(quoted, measured) or same(quoted, (-value, -high, -low))


def missing(readme: str) -> list[tuple[str, Interval]]:
    """The values that a README quotes and that are in no table of their model."""
    tables = {m: intervals((REPORTS / f"tables-{m}.md").read_text()) for m in MODELS}
    return [
        (models, told)
        for models, told in quoted(readme)
        if not any(rounded_alike(told, row) for m in models.split() for row in tables[m])
    ]


def test_every_interval_told_stands_in_a_table() -> None:
    readme = (REPORTS / "README.md").read_text()
    assert len(quoted(readme)) > 20
    assert not missing(readme)


@pytest.mark.parametrize(
    ("old", "new"), [("23.6 [21.7", "23.5 [21.7"), ("[16.7, 24.7]", "[16.7, 24.8]"),
                     ("25.1 [20.2", "25.0 [20.2"), ("[0.148, 0.188]", "[0.148, 0.189]")]
)  # fmt: skip
def test_an_edited_number_is_seen(old: str, new: str) -> None:
    readme = (REPORTS / "README.md").read_text()
    assert old in readme
    assert len(missing(readme.replace(old, new))) == 1


def test_what_is_collected_says_what_it_was_measured_with(tmp_path: Path) -> None:
    at = importlib.util.spec_from_file_location("collected", REPORTS / "collected.py")
    assert at is not None
    assert at.loader is not None
    collected = importlib.util.module_from_spec(at)
    at.loader.exec_module(collected)
    made = result(Sae(), name="a")
    metrics = {key: made.metrics.get(key, made.metrics["l0"]) for key in collected.METRICS}
    update = {"environment": environment(), "metrics": metrics}
    write_result(made.model_copy(update=update), tmp_path / "runs" / "a" / "evaluation")
    save_file({"step": np.arange(2.0)}, str(tmp_path / "runs" / "a" / "history.safetensors"))
    (tmp_path / "runs" / "a" / "config.json").write_text('{"tokens_seen": 4096}')
    collected.collect(tmp_path / "runs", tmp_path / "out", {"tokens": "embedded"})
    (kept,) = load_baseline(tmp_path / "out.json")
    assert kept.environment == environment()
    assert {"prolu-eval", "python", "torch", "transformer-lens", "gpu"} <= kept.environment.keys()
