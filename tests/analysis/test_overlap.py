"""The relation of overlap to L0."""

from prolu_eval.analysis import comparable
from prolu_eval.analysis.overlap import l0_diagnostic
from tests.helpers.made_results import result


def test_the_least_overlap_is_told_and_what_is_beyond_the_runs() -> None:
    overlaps = {"a": [3, 1, 2, 4], "b": [1, 2, 3, 4], "c": [4, 3, 2, 1], "d": [1, 2, 3]}
    results = [
        result(f"{label}{i}", label, {"l0": 10.0 * (i + 1), "decoder_cosine": value / 10},
               coefficient=0.1 * i)
        for label, values in overlaps.items()
        for i, value in enumerate(values)
    ]  # fmt: skip
    (group,) = comparable(results)
    assert l0_diagnostic(group) == [
        "a: decoder rows overlap least at L0 20: a lower L0 is likely too low, a higher one too "
        "high.",
        "b: decoder rows overlap least at their lowest L0, 10: every L0 of these runs may be "
        "too high.",
        "c: decoder rows overlap least at their highest L0, 40: every L0 of these runs may "
        "be too low.",
    ]
