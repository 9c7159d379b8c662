"""Which stored results count: current and readable ones, one per run; and reports of the others."""

import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from prolu_eval import frontier
from prolu_eval.errors import ResultsError, UsageError
from prolu_eval.results import (
    Result,
    Selection,
    file_digests,
    load_results,
    result_files,
    select,
    write_result,
)
from tests.helpers.cli import run
from tests.helpers.synthetic import Sae, result

TEXTS = ("a.txt", "b.txt")


def on_text(text: str, name: str, n: int = 64) -> Result:
    """A result of a run on a text."""
    sequences = np.arange(n) + 500 * TEXTS.index(text)
    return result(Sae(), sequences, name=name, setting={"tokens": f"/texts/{text}"})


def evaluated(folder: Path, text: str, names: Sequence[str], time: float) -> None:
    """Store results of runs on a text, with ``time`` as the time of writing."""
    for name in names:
        path = write_result(on_text(text, name), folder / name / "evaluation")
        os.utime(path, (time, time))


def texts(found: Selection) -> dict[str, str]:
    return {r.run.name: Path(r.setting.tokens).name for r in found.results}


def test_the_newest_evaluation_counts_and_others_are_named(tmp_path: Path) -> None:
    evaluated(tmp_path, "b.txt", "xyz", 1e9)
    evaluated(tmp_path, "a.txt", "xyz", 2e9)
    found = select([tmp_path])
    assert texts(found) == dict.fromkeys("xyz", "a.txt")
    (other,) = found.others
    assert (other.title, len(other.results)) == ("b.txt", 3)
    (remark,) = found.remarks
    assert "the results on a.txt are used; there are also 3 on b.txt (--tokens" in remark
    assert f"--tokens {other.key}" in remark
    for tokens in ("b.txt", "/texts/b.txt", other.key, other.results[0].setting.tokens_fingerprint):
        assert texts(select([tmp_path], tokens=tokens)) == dict.fromkeys("xyz", "b.txt")
    assert len(select([tmp_path], every=True).results) == 6
    prefer = {other.results[0].setting.comparison_key()}
    assert texts(select([tmp_path], prefer=prefer)) == dict.fromkeys("xyz", "b.txt")
    with pytest.raises(ResultsError, match=r"no results on c.txt; choose one of .*b.txt \(3 runs"):
        select([tmp_path], tokens="c.txt")


def test_an_evaluation_of_few_runs_does_not_hide_the_others(tmp_path: Path) -> None:
    evaluated(tmp_path, "a.txt", "vwxyz", 1e9)
    evaluated(tmp_path, "b.txt", "v", 2e9)
    assert texts(select([tmp_path])) == dict.fromkeys("vwxyz", "a.txt")
    evaluated(tmp_path, "b.txt", "wx", 2e9)
    assert texts(select([tmp_path])) == {
        **dict.fromkeys("vwx", "b.txt"),
        "y": "a.txt",
        "z": "a.txt",
    }


def test_a_table_has_one_row_a_run_unless_all_are_asked_for(tmp_path: Path) -> None:
    evaluated(tmp_path, "a.txt", "xyz", 1e9)
    evaluated(tmp_path, "b.txt", "xyz", 2e9)
    with pytest.warns(UserWarning, match=r"there are also 3 on a.txt"):
        table = load_results(tmp_path)
    assert table["name"].tolist() == ["x", "y", "z"]
    assert table["comparison_key"].nunique() == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_results(tmp_path, all=True)) == 6
        chosen = load_results(tmp_path, tokens="a.txt")
    assert set(chosen["tokens"]) == {"/texts/a.txt"}


def test_a_damaged_file_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    evaluated(tmp_path, "a.txt", "xy", 1e9)
    (file, _) = result_files([tmp_path])
    file.write_text("{")
    with pytest.warns(UserWarning, match="cannot be read"):
        table = load_results(tmp_path)
    assert table["name"].tolist() == ["y"]
    with pytest.raises(UsageError, match="does not exist"):
        load_results(tmp_path / "nowhere")
    shutil.rmtree(tmp_path / "y")
    with pytest.raises(ResultsError, match="holds no results that can be used"):
        load_results(tmp_path)


def trained(folder: Path, weights: bytes, name: str) -> Path:
    """A run of some weights, with its result beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sae.safetensors").write_bytes(weights)
    digests = file_digests([folder / "sae.safetensors"], folder)
    made = result(Sae(), name=name)
    at = {"path": str(folder), "name": name}
    update = {"checkpoint": digests, "run": made.run.model_copy(update=at)}
    return write_result(made.model_copy(update=update), folder / "evaluation")


def test_a_run_trained_anew_is_judged_by_its_own_bytes(tmp_path: Path) -> None:
    trained(tmp_path / "r0", b"old", "r0")
    shutil.copytree(tmp_path / "r0", tmp_path / "r0-old")
    (tmp_path / "r0" / "sae.safetensors").write_bytes(b"new")
    found = select([tmp_path])
    assert [(r.run.name, r.run.path) for r in found.results] == [
        ("r0-old", str(tmp_path / "r0-old"))
    ]
    assert "r0 has changed since" in found.left_out[0]
    trained(tmp_path / "r0", b"new", "r0")
    assert {r.run.name for r in select([tmp_path]).results} == {"r0", "r0-old"}


def test_a_result_that_came_with_a_copy_is_none_of_another_run(tmp_path: Path) -> None:
    trained(tmp_path / "r0", b"first", "r0")
    (tmp_path / "r1").mkdir()
    (tmp_path / "r1" / "sae.safetensors").write_bytes(b"second")
    shutil.copytree(tmp_path / "r0" / "evaluation", tmp_path / "r1" / "evaluation")
    for file in (tmp_path / "r1" / "evaluation").iterdir():
        os.utime(file, (4e9, 4e9))  # newer than the weights that it is not of
    found = select([tmp_path])
    assert [r.run.name for r in found.results] == ["r0"]
    assert "r1 has changed since" in found.left_out[0]


def test_a_moved_folder_reports_its_own_path(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, weights in (("r0", b"a"), ("r1", b"b")):
        trained(tmp_path / "runs" / name, weights, name)
    (tmp_path / "runs").rename(tmp_path / "moved")
    table = load_results(tmp_path / "moved")
    assert table["path"].tolist() == [str(tmp_path / "moved" / n) for n in ("r0", "r1")]
    assert table["name"].tolist() == ["r0", "r1"]
    document = run(capfd, "report", tmp_path / "moved", "--json").json()
    assert [r["path"] for r in document["runs"]] == table["path"].tolist()
    (tmp_path / "moved" / "r0").rename(tmp_path / "moved" / "renamed")
    assert set(load_results(tmp_path / "moved")["name"]) == {"renamed", "r1"}


def test_runs_of_one_name_below_a_folder_have_their_paths_for_names(tmp_path: Path) -> None:
    trained(tmp_path / "a" / "r0", b"a", "r0")
    trained(tmp_path / "b" / "r0", b"b", "r0")
    assert load_results(tmp_path)["name"].tolist() == ["a/r0", "b/r0"]


def test_names_depend_on_the_folders_that_are_named_alone(tmp_path: Path) -> None:
    """Whatever folder they were evaluated from before: no two runs have one name."""
    for stored in ("run", "A/run", "somewhere/else/run"):
        shutil.rmtree(tmp_path / "all", ignore_errors=True)
        places = [tmp_path / "all" / folder / "run" for folder in ("A", "B", "A/A")]
        for place in places:
            trained(place, str(place).encode(), stored)
        a, b, inner = places

        def named(*paths: Path) -> list[str]:
            names = load_results(paths)["name"].tolist()
            on_frontier = [r.run.name for r in frontier(paths).groups[0].group.results]
            assert sorted(on_frontier) == sorted(names)
            return names

        assert named(tmp_path / "all") == ["A/A/run", "A/run", "B/run"]
        assert named(a) == ["run"]
        assert named(a, b) == ["A/run", "B/run"]
        assert named(a.parent, b.parent) == ["A/A/run", "A/run", "B/run"]
        assert named(a, b, inner) == ["all/A/run", "all/B/run", "A/A/run"]
        assert named(a, Path(f"{b}/../run"), b) == ["A/run", "B/run"]


def test_results_of_one_name_in_a_folder_of_results_are_told_apart(tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder / "run").mkdir(parents=True)
        made = on_text("a.txt", "run", 64)
        at = made.run.model_copy(update={"path": str(tmp_path / folder / "run")})
        other = {"run": at, "fingerprint": folder * 32}
        write_result(made.model_copy(update=other), tmp_path / "results" / "run")
    assert load_results(tmp_path / "results")["name"].tolist() == ["a/run", "b/run"]


def test_other_evaluations_are_named_in_one_line_beside_the_one_taken(tmp_path: Path) -> None:
    evaluated(tmp_path, "a.txt", "xyz", 2e9)
    evaluated(tmp_path, "b.txt", "xyz", 1e9)
    for name in "xy":
        path = write_result(on_text("a.txt", name, 32), tmp_path / name / "evaluation")
        os.utime(path, (1e9, 1e9))
    (remark,) = select([tmp_path]).remarks
    taken, there = remark.split("; ")
    full, half = (on_text("a.txt", "x", n).setting.n_counted for n in (64, 32))
    assert taken == f"the results on a.txt, {full:,} tokens are used"
    assert there.startswith("there are also 3 on b.txt (--tokens ")
    assert f", 2 on a.txt, {half:,} tokens (--tokens " in there
    assert "fingerprint" not in remark


def test_report_answers_the_evaluation_that_is_asked_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    evaluated(tmp_path, "b.txt", "xyz", 1e9)
    evaluated(tmp_path, "a.txt", "xyz", 2e9)
    ran = run(capfd, "report", tmp_path, "--json")
    assert "there are also 3 on b.txt" in ran.err
    for text, arguments in (("a.txt", ()), ("b.txt", ("--tokens", "b.txt"))):
        document = run(capfd, "report", tmp_path, "--json", *arguments).json()
        measured = {r["provenance"]["setting"]["tokens"] for r in document["runs"]}
        assert measured == {f"/texts/{text}"}
