"""Important definitions exist once; version 0.1.0 had several that disagreed."""

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from prolu_eval.analysis import comparable, group_frontier, pareto_frontier, resample
from prolu_eval.comparison import ComparisonOptions, compare_results, parse_tolerances
from prolu_eval.estimates import Estimate
from prolu_eval.interface import frontier
from prolu_eval.render.markdown import comparison_markdown, frontier_markdown
from prolu_eval.results import file_digests, load_results, write_result
from tests.helpers.cli import run
from tests.helpers.synthetic import THRESHOLDS, Sae, result, sweep
from tests.project.test_imports import FILES, PACKAGE


def test_frontier_and_compare_have_one_hypervolume() -> None:
    """One reference point was the worst run, the other was ten per cent beyond it."""
    runs = [result(Sae("prolu", threshold)) for threshold in THRESHOLDS]
    (group,) = comparable(runs)
    shown = group_frontier(group, "l0", "ce_degradation").hypervolume.value
    judged = compare_results(runs, runs, ComparisonOptions(parse_tolerances())).frontiers
    (row,) = (row for row in judged if (row.metric or "").startswith("hypervolume"))
    assert row.baseline == row.current == pytest.approx(shown, rel=1e-12)


def test_a_run_trained_anew_is_on_no_frontier(tmp_path: Path) -> None:
    """Tables listed results that commands called out of date."""
    for name in ("old", "new"):
        folder = tmp_path / name
        folder.mkdir()
        weights = folder / "sae.safetensors"
        weights.write_bytes(name.encode())
        made = result(Sae(), name=name)
        at = made.run.model_copy(update={"path": str(folder)})
        update = {"run": at, "checkpoint": file_digests([weights], folder)}
        write_result(made.model_copy(update=update), folder / "evaluation")
    (tmp_path / "old" / "sae.safetensors").write_bytes(b"trained again")
    with pytest.warns(UserWarning, match="old has changed since"):
        table = load_results(tmp_path)
    assert pareto_frontier(table)["name"].tolist() == ["new"]


def test_every_uncertain_number_of_a_frontier_is_an_estimate() -> None:
    """Values with intervals were kept in four ways."""
    (group,) = comparable(sweep())
    replicates = resample(group, ("l0", "ce_degradation"), 50)
    found = group_frontier(group, "l0", "ce_degradation", replicates=replicates)
    known = [
        found.hypervolume,
        *(v.hypervolume for v in found.variants),
        *(v.hypervolume_share for v in found.variants),
        *(v.exclusive_share for v in found.variants),
        *(saving.amount for saving in found.savings),
        *(epsilon.additive for epsilon in found.epsilons),
        *group.results[0].metrics.values(),
    ]
    assert len(known) > 10
    assert all(isinstance(value, Estimate) for value in known)
    assert found.hypervolume.low is not None


def test_both_commands_write_a_name_alike_in_markdown() -> None:
    """Two escapers differed on these characters."""
    name = r"a & b # c ~ d $ e @ f | g <h> \i"
    runs = [result(Sae("prolu", t), name=f"{name} {t}") for t in THRESHOLDS]
    written = r"a &amp; b \# c \~ d \$ e \@ f \| g &lt;h&gt; \\i 0.1"
    (answer,) = frontier(runs).groups
    assert written in frontier_markdown(answer)
    assert written in comparison_markdown(compare_results(runs, runs))


def test_a_broken_run_is_told_in_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A message once contained another message, with two remedies: `...); mend it.`"""
    (tmp_path / "r1").mkdir()
    config = {"schema_version": 1, "variant": "nonsense", "d_in": 4, "d_sae": 8}
    (tmp_path / "r1" / "config.json").write_text(json.dumps(config))
    (tmp_path / "r1" / "sae.safetensors").write_bytes(b"")
    ran = run(capfd, "biases", tmp_path)
    assert ran.code == 2
    (line,) = ran.err.splitlines()
    assert line.count("; ") == 1
    assert "mend it" not in line
    assert "nonsense" in line


def _calls(path: Path) -> set[str]:
    """The names of the functions that a file calls; of dotted names, the last part."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {getattr(f, "attr", getattr(f, "id", "")) for f in called}


@pytest.mark.parametrize(
    ("what", "one"),
    [
        (lambda path: "Environment" in _calls(path), "render/environment.py"),
        (lambda path: "mkstemp" in _calls(path) or "NamedTemporaryFile" in _calls(path),
         "results/files.py"),
    ],
    ids=["environment of templates", "atomic writer"],
)  # fmt: skip
def test_one_module_does_it(what: Callable[[Path], bool], one: str) -> None:
    found = {path.relative_to(PACKAGE).as_posix() for path in FILES if what(path)}
    assert found == {one}
