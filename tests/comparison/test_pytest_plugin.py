"""The pytest plugin, in separate pytest sessions: one in its own process, the others in this."""

from pathlib import Path

import pytest

from prolu_eval.baseline import save_baseline
from prolu_eval.results import write_result
from tests.helpers.synthetic import Sae, result

pytest_plugins = ["pytester"]

TEST = """
def test_quality(assert_no_regression):
    found = assert_no_regression({runs!r}, {baseline!r}, {options})
    assert found.verdict == "pass"
"""


def gate(
    pytester: pytest.Pytester, sae: Sae, options: str = "", *, elsewhere: bool = False
) -> pytest.RunResult:
    """A session with one test that compares an autoencoder with its undamaged self."""
    save_baseline([result(Sae())], pytester.path / "baseline.json")
    write_result(result(sae), pytester.path / "runs" / "one" / "evaluation")
    pytester.makepyfile(TEST.format(runs="runs/", baseline="baseline.json", options=options))
    ran = pytester.runpytest_subprocess if elsewhere else pytester.runpytest_inprocess
    return ran("-p", "no:cacheprovider", "-q")


def test_what_is_no_worse_passes(pytester: pytest.Pytester) -> None:
    gate(pytester, Sae(), elsewhere=True).assert_outcomes(passed=1)


def test_a_regression_fails_with_the_table_and_no_traceback(pytester: pytest.Pytester) -> None:
    ran = gate(pytester, Sae(decoder_scale=0.8))
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(["regression *prolu/0.3 *ce_degradation *", "regression: *"])
    ran.stdout.no_fnmatch_line("*Traceback*")
    ran.stdout.no_fnmatch_line("*pytest_plugin.py*")


@pytest.mark.parametrize(
    "options",
    [
        "tolerance='ce_degradation=+500%,l0=+1', frontier=None, only=['prolu/*']",
        "tolerance=['ce_degradation=+500%', 'l0=+1'], frontier='none', only='prolu/*'",
    ],
)
def test_options_reach_the_comparison(pytester: pytest.Pytester, options: str) -> None:
    gate(pytester, Sae(decoder_scale=0.8), options).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("tolerance='loss=+1'", "*'loss' is not a metric*"),
        ("match='('", "*is not a regular expression*"),
        ("alpha=7", "*--alpha: 7 is not an error rate*"),
        ("frontier='l0'", "*is not a pair of metrics*"),
    ],
)
def test_options_that_make_no_sense_fail_in_one_line(
    pytester: pytest.Pytester, options: str, message: str
) -> None:
    ran = gate(pytester, Sae(), options)
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines([message])
    ran.stdout.no_fnmatch_line("During handling*")


def test_missing_files_fail_in_one_line(pytester: pytest.Pytester, tmp_path: Path) -> None:
    pytester.makepyfile(TEST.format(runs=str(tmp_path), baseline="nothing.json", options=""))
    ran = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-q")
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(["*nothing.json: cannot be read*baseline save*"])
