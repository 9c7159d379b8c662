"""The same gate as a test. Installing prolu-eval brings the fixture along."""

from collections.abc import Callable


def test_autoencoders_are_no_worse(assert_no_regression: Callable[..., object]) -> None:
    assert_no_regression("runs/", "baseline.json", tolerance="ce_degradation=+2%,l0=+1")
