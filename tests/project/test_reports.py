"""The numbers with intervals in reports/README.md are those of the tables beside it.

That the tables follow from the stored results is shown in ``reproduced.py``.
"""

import importlib.util
import re
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import save_file

from prolu_eval import training
from prolu_eval.analysis import comparable
from prolu_eval.baseline import load_baseline
from prolu_eval.provenance import environment
from prolu_eval.results import Result, write_result
from tests.helpers import made_results
from tests.helpers.synthetic import Sae, result

REPORTS = Path(__file__).parent.parent.parent / "reports"
MODELS = ("stories260k", "embedded", "smollm2")  # in the order of README's columns
_NUMBER = r"[-+]?[0-9]+(?:[.][0-9]+)?"
_INTERVAL = re.compile(rf"({_NUMBER}) \[({_NUMBER}), ({_NUMBER})\]")

Interval = tuple[Decimal, ...]


def script(name: str) -> ModuleType:
    """A script of reports/ as a module."""
    at = importlib.util.spec_from_file_location(name, REPORTS / f"{name}.py")
    assert at is not None
    assert at.loader is not None
    module = importlib.util.module_from_spec(at)
    at.loader.exec_module(module)
    return module


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
    ("old", "new"), [("23.6 [21.5", "23.5 [21.5"), ("[17.1, 24.3]", "[17.1, 24.4]"),
                     ("22.2 [17.4", "22.1 [17.4"), ("[0.148, 0.188]", "[0.148, 0.189]")]
)  # fmt: skip
def test_an_edited_number_is_seen(old: str, new: str) -> None:
    readme = (REPORTS / "README.md").read_text()
    assert old in readme
    assert len(missing(readme.replace(old, new))) == 1


def test_what_is_collected_says_what_it_was_measured_with(tmp_path: Path) -> None:
    collected = script("collected")
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


@pytest.mark.parametrize("short", [True, False])
def test_every_sweep_on_smollm2_suits_its_dictionary(
    short: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matryoshka's groups were of another size in the short version, which ended at once."""
    monkeypatch.syspath_prepend(str(REPORTS))
    experiment = script("smollm2").Experiment(
        tmp_path, training.Settings(), "float32", 1024, None, short
    )
    grid = experiment.grid(experiment.sweeps())
    assert grid.shared.dictionary_size(576) == (1152 if short else 8 * 576)
    grid.check(576)
    sizes = [s.options["group_sizes"] for s in grid.sweep if s.variant == "matryoshka"]
    assert [sum(groups) for groups in sizes] == [grid.shared.dictionary_size(576)]
    (tmp_path / "natural.txt").write_text("text")
    assert experiment.small("prolu/ste+l1").shared.d_sae == 1152


def seeds_of(label: str, factor: float, common: tuple[float, ...] = (1, 1, 1)) -> list[Result]:
    """Eight configurations on CE = factor / L0 with three seeds, which ``common`` multiplies."""
    rng = np.random.default_rng(int(factor))
    made = []
    for seed, of_seed in enumerate(common):
        for i, l0 in enumerate(np.geomspace(4, 64, 8)):
            place = l0 * rng.lognormal(0, 0.02)
            ce = factor / l0 * rng.lognormal(0, 0.02) * of_seed
            one = made_results.drawn(f"{label}-{i}-{seed}", label, rng, place, ce)
            run = one.run.model_copy(update={"seed": seed, "coefficient": 0.1 * (i + 1)})
            made.append(one.model_copy(update={"run": run}))
    return made


def test_a_third_seed_is_held_against_the_two_others() -> None:
    seeds = script("seeds")
    found = seeds.third_seeds(seeds_of("a", 8) + seeds_of("b", 12), ["a", "b"])
    counted = [*seeds.RUNS, *seeds.SAVINGS, *seeds.MEANS]
    assert [len(found["a"][key]) for key in counted] == [24, 24, 3, 3, 3, 3]
    assert [len(found["all"][key]) for key in counted] == [48, 48, 3, 3, 6, 6]
    assert all(sum(found["all"][key]) >= 43 for key in seeds.RUNS)
    assert all(all(found["all"][key]) for key in seeds.SAVINGS)
    assert re.fullmatch(r"3 of 3: 100 \[29.2, 100\]", seeds.cells(found["all"])[2])


def test_what_seeds_do_to_all_runs_alike_is_seen() -> None:
    """It moves every curve, as intervals say, and no saving between variants of the same seeds."""
    seeds = script("seeds")
    common = (0.85, 1.0, 1.15)
    results = seeds_of("a", 8, common) + seeds_of("b", 12, common)
    found = seeds.third_seeds(results, ["a", "b"])["all"]
    assert all(all(found[key]) for key in seeds.SAVINGS)
    assert sum(found[seeds.MEANS[0]]) >= 5
    (group,) = comparable(results)
    (_, by_seed, share, alone, chance), _, (_, alike, *_) = seeds.in_common(group, ["a", "b"])
    assert [float(value) for value in by_seed.split(", ")] == pytest.approx([-15, 1, 14], abs=2)
    assert float(share) == pytest.approx(15, abs=2)
    assert float(alone) < 10
    assert float(chance) < 1e-6
    assert alike == "1.00 to 1.00"
