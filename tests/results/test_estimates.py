"""A number with its uncertainty is written with the digits that it supports."""

import math

import pytest

from prolu_eval.estimates import Estimate, number, two_digits

LEAD = Estimate(value=0.3119, standard_error=0.0069, ci95=(0.2981, 0.3254))


@pytest.mark.parametrize(
    ("estimate", "spec", "written"),
    [
        (LEAD, "", "0.312 [0.298, 0.325]"),
        (LEAD, "%", "31.2 % [29.8, 32.5]"),
        (LEAD, "se", "0.3119 ±0.0069"),
        (LEAD, "v", "0.312"),
        (LEAD, "i", "[0.298, 0.325]"),
        (LEAD, "+v", "+0.312"),
        (LEAD, "+", "+0.312 [+0.298, +0.325]"),
        (LEAD, "+%", "+31.2 % [+29.8, +32.5]"),
        (LEAD.scaled(-1), "+i", "[-0.325, -0.298]"),
        (Estimate(value=0.12345), "i", ""),
        (Estimate(value=1234.4, ci95=(1200.2, 1271.0)), "", "1234 [1200, 1271]"),
        (Estimate(value=120345.0, ci95=(100000.0, 140000.0)), "", "120000 [100000, 140000]"),
        (Estimate(value=0.12345), "", "0.1235"),
        (Estimate(value=0.12345), "se", "0.1235"),
        (Estimate(value=-0.0001, ci95=(-0.02, 0.02)), "", "0.000 [-0.020, 0.020]"),
        (Estimate(value=None), "", "-"),
        (Estimate(value=None), "%", "-"),
        (Estimate(value=2.0, ci95=(2.0, 2.0)), "", "2 [2, 2]"),
    ],
)
def test_digits_follow_the_interval(estimate: Estimate, spec: str, written: str) -> None:
    assert f"{estimate:{spec}}" == written


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown format"):
        format(LEAD, ".3f")


def test_a_negative_factor_turns_the_interval_round() -> None:
    turned = LEAD.scaled(-2)
    assert (turned.value, turned.low, turned.high) == pytest.approx((-0.6238, -0.6508, -0.5962))
    assert turned.standard_error == pytest.approx(0.0138)
    assert turned.excludes_zero
    assert not Estimate(value=0.1, ci95=(-0.1, 0.3)).excludes_zero
    assert not Estimate(value=0.1).excludes_zero


def test_json_holds_value_error_and_interval() -> None:
    assert LEAD.to_json() == {
        "value": 0.3119, "standard_error": 0.0069, "ci95": [0.2981, 0.3254],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "uncertainty", "written"),
    [(float("inf"), 1.0, "inf"), (float("nan"), None, "-"), (1e-30, 1e-31, "1e-30")],
)
def test_odd_numbers(value: float, uncertainty: float | None, written: str) -> None:
    assert number(value, uncertainty) == written


@pytest.mark.parametrize(
    ("value", "shown"),
    [(120.4, "120"), (99.6, "100"), (0.0312, "0.031"), (12345.0, "12000"), (1e-7, "1e-07"),
     (math.inf, "inf"), (math.nan, "-"), (None, "-")],
)  # fmt: skip
def test_a_rough_number_has_two_digits_and_no_needless_exponent(
    value: float | None, shown: str
) -> None:
    assert two_digits(value) == shown
