"""A pytest plugin: gate on a baseline in tests.

def test_saes_did_not_get_worse(assert_no_regression):
    assert_no_regression("runs/", "baseline.json", tolerance="ce_degradation=+2%,l0=+1")
"""

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from prolu_eval.comparison import Comparison


@pytest.fixture
def assert_no_regression() -> Callable[..., "Comparison"]:
    """A function that fails the test if runs are worse than a baseline, or not comparable."""
    return _assert_no_regression


def _assert_no_regression(
    runs: str | PathLike[str] | Sequence[str | PathLike[str]],
    baseline: str | PathLike[str],
    *,
    tolerance: str | Sequence[str] | None = None,
    **options: Any,
) -> "Comparison":
    """Compare as `prolu-eval compare` does; the comparison, if nothing fails.

    Args:
        runs: a folder of runs with results, or several.
        baseline: the baseline's JSON file.
        tolerance: as the option of that name, or several of it.
        options: the other fields of :class:`prolu_eval.comparison.Options`.
    """
    __tracebackhide__ = True
    from prolu_eval.baseline import load_baseline
    from prolu_eval.comparison import DEFAULT, Options, compare, parse_tolerances
    from prolu_eval.comparison.obtain import obtain_results
    from prolu_eval.errors import ProluEvalError
    from prolu_eval.render.terminal import comparison_text

    folders = [runs] if isinstance(runs, str | PathLike) else runs
    tolerances = [tolerance or DEFAULT] if isinstance(tolerance, str | None) else tolerance
    skipped: list[str] = []
    problem = ""
    try:
        stored = load_baseline(Path(baseline))
        settings = {result.setting for result in stored}
        current = obtain_results(
            [Path(folder) for folder in folders], settings=settings, warn=skipped.append
        )
        chosen = Options(tolerances=parse_tolerances(tolerances), **options)
        found = compare(current, stored, chosen)
        if found.exit_code:
            problem = "\n".join([comparison_text(found), *(f"skipped: {why}" for why in skipped)])
    except ProluEvalError as error:
        problem = str(error)
    if problem:
        pytest.fail(problem, pytrace=False)
    return found
