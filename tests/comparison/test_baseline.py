"""Baselines: their content, every released schema, and damage of all kinds."""

import json
from pathlib import Path

import numpy as np
import pytest

from prolu_eval.baseline import SCHEMA_VERSION, load_baseline, save_baseline, updated
from prolu_eval.comparison import compare_results
from prolu_eval.errors import BaselineError
from prolu_eval.estimates import Estimate
from prolu_eval.provenance import environment
from prolu_eval.results import Result
from tests.helpers.synthetic import Sae, result, sweep

NEWER = SCHEMA_VERSION + 1
STORED = Path(__file__).parent.parent / "data" / "baselines"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "baseline.json"
    save_baseline(sweep(np.arange(32)), path)
    return path


def test_it_says_what_each_run_was_measured_with(tmp_path: Path) -> None:
    """A baseline has all that an evaluation records, once for all runs that share it."""
    here, elsewhere = environment(), environment() | {"gpu": "another"}
    made = [result(Sae(threshold=t), np.arange(32)) for t in (0.1, 0.2, 0.5)]
    measured = [r.model_copy(update={"environment": e})
                for r, e in zip(made, (here, here, elsewhere), strict=True)]  # fmt: skip
    save_baseline(measured, tmp_path / "b.json")
    loaded = {r.run.name: r.environment for r in load_baseline(tmp_path / "b.json")}
    assert loaded == {r.run.name: r.environment for r in measured}
    assert (tmp_path / "b.json").read_text().count('"transformers"') == 2
    told = compare_results(measured, load_baseline(tmp_path / "b.json")).provenance
    assert told["baseline, measured with"] == told["current, measured with"] != "unknown"


def test_everything_that_comparison_needs_comes_back(saved: Path) -> None:
    kept = {r.run.name: r for r in load_baseline(saved)}
    for original in sweep(np.arange(32)):
        loaded = kept.pop(original.run.name)
        assert loaded.setting == original.setting
        assert loaded.fingerprint == original.fingerprint
        assert loaded.environment == original.environment
        assert loaded.run.model_copy(update={"path": original.run.path}) == original.run
        for column, sums in original.per_sequence().items():
            np.testing.assert_array_equal(loaded.per_sequence()[column], sums)
        for key, scalar in original.metrics.items():
            assert loaded.metrics[key].value == pytest.approx(scalar.value, rel=1e-5)
    assert not kept


def test_it_is_small_and_reads_line_by_line(saved: Path) -> None:
    lines = saved.read_text().splitlines()
    first = load_baseline(saved)[0].metrics["l0"]
    expected = f'"l0": {{"value": {first.value}, "standard_error": {first.standard_error}}}'
    assert any(line.strip().startswith(expected) for line in lines)
    assert max(map(len, lines)) < 400
    assert len(lines) < 50 * 10


def test_a_changed_run_changes_its_own_lines_alone(saved: Path) -> None:
    before = saved.read_text().splitlines()
    changed = result(Sae("relu", 0.5, encoder_noise=0.02), np.arange(32))
    save_baseline(updated(load_baseline(saved), [changed]), saved)
    after = saved.read_text().splitlines()
    assert len(after) == len(before)
    start = next(i for i, line in enumerate(after) if line.startswith('  "relu/0.5"'))
    end = next(i for i, line in enumerate(after) if line.startswith('  "relu/0.8"'))
    different = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert different
    whole = ('"sha256": ', '"saved": ')
    assert all(start < i < end or after[i].strip().startswith(whole) for i in different)


def test_updating_replaces_adds_and_prunes() -> None:
    old = [result(Sae(threshold=t)) for t in (0.1, 0.2, 0.5)]
    new = [result(Sae(threshold=0.2, decoder_scale=0.9)), result(Sae(threshold=0.8))]
    merged = {r.run.name: r for r in updated(old, new, prune=["prolu/0.5"])}
    assert merged.keys() == {"prolu/0.1", "prolu/0.2", "prolu/0.8"}
    assert merged["prolu/0.2"] is new[0]


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_every_released_schema_still_loads(version: int) -> None:
    baseline = load_baseline(STORED / f"v{version}" / "baseline.json")
    assert [r.run.name for r in baseline] == ["prolu/0.2", "prolu/0.5", "relu/0.2"]
    assert baseline[0].metrics["l0"].value == pytest.approx(5.86719)
    assert compare_results(baseline, baseline).verdict == "pass"


def test_each_stored_example_is_of_a_released_schema() -> None:
    versions = {f"v{version}" for version in range(1, SCHEMA_VERSION + 1)}
    assert {folder.name for folder in STORED.iterdir()} == versions


def line_with(path: Path, start: str) -> int:
    """The number of the first line of a file that begins so, after spaces."""
    lines = path.read_text().splitlines()
    return next(i for i, line in enumerate(lines, 1) if line.strip().startswith(start))


def damaged(path: Path, old: str, new: str) -> str:
    """Replace text in a baseline, and return the sentence of the error that results."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BaselineError) as caught:
        load_baseline(path)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_an_edited_number_is_found_by_the_sums(saved: Path) -> None:
    value = load_baseline(saved)[0].metrics["ce_degradation"].value
    line = line_with(saved, '"ce_degradation"')
    sentence = damaged(
        saved, f'"ce_degradation": {{"value": {value}', '"ce_degradation": {"value": 9'
    )
    assert sentence.startswith(f"{saved}:{line}: ce_degradation was edited by hand")


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ('"fingerprint"', '"fingerprnt"', '"fingerprnt"', "extra inputs"),
        ('"format": "native"', '"format": 3', '"format"', "should be a valid string"),
        ('"n_counted": 512', '"n_counted": "many"', '"n_counted"', "valid integer"),
        (f'"schema_version": {NEWER - 1}', f'"schema_version": {NEWER}', None, "update prolu-eval"),
        ('   "ce_clean",\n', "", '"prolu/0.1"', "has no sums of shape"),
        (' "runs"', '<<<<<<< ours\n "runs"', '<<<<<<< ours', "merge conflict"),
        ('"setting": "', '"setting": "x', '"setting"', "the file has no setting"),
    ],
)  # fmt: skip
def test_damage_is_one_line_that_names_the_line(
    saved: Path, old: str, new: str, line: str | None, reason: str
) -> None:
    sentence = damaged(saved, old, new)
    assert reason in sentence
    expected = f"{saved}:{line_with(saved, line)}: " if line else f"{saved}: "
    assert sentence.startswith(expected)


def test_a_truncated_baseline_names_its_last_line(saved: Path) -> None:
    text = saved.read_text()
    cut = text[: len(text) // 2]
    saved.write_text(cut)
    with pytest.raises(BaselineError, match=r"ends in the middle|is not JSON") as caught:
        load_baseline(saved)
    assert str(caught.value).startswith(f"{saved}:{cut.count(chr(10)) + 1}: ")


def test_sums_of_another_baseline_are_refused(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    save_baseline(sweep(np.arange(16)), other)
    saved.with_suffix(".safetensors").write_bytes(other.with_suffix(".safetensors").read_bytes())
    with pytest.raises(BaselineError, match=r"is not the file saved with this baseline"):
        load_baseline(saved)


def test_sums_left_in_git_lfs_are_named_with_the_command(saved: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    saved.with_suffix(".safetensors").write_text(pointer)
    with pytest.raises(BaselineError, match="git lfs pull"):
        load_baseline(saved)


def test_columns_that_runs_share_are_kept_once(tmp_path: Path) -> None:
    runs = sweep(np.arange(256))
    save_baseline(runs, tmp_path / "b.json")
    columns = len(runs[0].per_sequence())
    size = (tmp_path / "b.safetensors").stat().st_size
    assert size < 0.7 * len(runs) * columns * 256 * 8


def test_missing_files_are_named(saved: Path) -> None:
    with pytest.raises(BaselineError, match=r"no such file.*baseline save"):
        load_baseline(saved.with_name("nothing.json"))
    sums = saved.with_suffix(".safetensors")
    sums.unlink()
    with pytest.raises(BaselineError, match=sums.name):
        load_baseline(saved)


@pytest.mark.parametrize("content", ["[]", "null", "3", '{"schema_version": 1}', '"text"'])
def test_json_that_is_no_baseline(tmp_path: Path, content: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(content)
    with pytest.raises(BaselineError):
        load_baseline(path)


def test_two_runs_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = [result(Sae()), result(Sae())]
    with pytest.raises(BaselineError, match=r"would name prolu/0\.3 twice"):
        save_baseline(twice, tmp_path / "b.json")


def test_undefined_scalars_survive(tmp_path: Path) -> None:
    one: Result = result(Sae(), np.arange(1))
    assert one.metrics["l0"].standard_error is None
    save_baseline([one.model_copy(update={"metrics": one.metrics | {"kl": Estimate(value=None)}})],
                  tmp_path / "b.json")  # fmt: skip
    kept = load_baseline(tmp_path / "b.json")[0]
    assert kept.metrics["l0"].standard_error is None
    assert kept.metrics["kl"].value is None
    json.loads((tmp_path / "b.json").read_text())
