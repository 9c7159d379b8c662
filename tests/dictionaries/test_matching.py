"""Matching of features, compared with all permutations."""

from itertools import permutations

import numpy as np
import pytest

from prolu_eval.dictionaries.matching import one_to_one


@pytest.mark.parametrize("shape", [(6, 6), (4, 6), (6, 4)])
def test_matching_is_the_best_of_all(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        similarity = rng.random(shape)
        match = one_to_one(similarity)
        matched = match >= 0
        assert len(set(match[matched])) == matched.sum() == min(shape)
        found = similarity[np.flatnonzero(matched), match[matched]].sum()
        few, many = similarity if shape[0] <= shape[1] else similarity.T, max(shape)
        best = max(
            sum(few[i, j] for i, j in enumerate(order))
            for order in permutations(range(many), min(shape))
        )
        assert found == pytest.approx(best)
