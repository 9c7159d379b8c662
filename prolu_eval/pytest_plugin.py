"""A pytest plugin with which tests fail if runs are worse than a baseline.

def test_saes_did_not_get_worse(assert_no_regression):
    assert_no_regression("runs/", "baseline.json", tolerance="ce_degradation=+2%,l0=+1")
"""

from collections.abc import Callable, Sequence
from os import PathLike
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
    """Compare as `prolu-eval compare` does, and fail the test if the comparison fails.

    Args:
        runs: a folder of runs with results, or several.
        baseline: the baseline's JSON file, or a folder of runs to compare with instead.
        tolerance: one or several texts, as for the option ``--tolerance``.
        options: the other arguments of :func:`prolu_eval.compare`.

    Returns:
        The comparison.
    """
    __tracebackhide__ = True
    from prolu_eval.errors import ProluEvalError
    from prolu_eval.interface import compare
    from prolu_eval.render.terminal import comparison_text

    skipped: list[str] = []
    problem = ""
    try:
        found = compare(runs, baseline, tolerance=tolerance, warn=skipped.append, **options)
        if found.exit_code:
            problem = "\n".join([comparison_text(found), *skipped])
    except ProluEvalError as error:
        problem = str(error)
    if problem:
        pytest.fail(problem, pytrace=False)
    return found
