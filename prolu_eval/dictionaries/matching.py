"""Which features of two dictionaries are the same, by how alike their directions are."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment


def one_to_one(similarity: NDArray[np.floating]) -> NDArray[np.int64]:
    """The one-to-one matching of largest total similarity (Hungarian method).

    Args:
        similarity: of rows' features to columns'. [n, m]

    Returns:
        The column of each row, -1 for rows without one, of which there are n - min(n, m). [n]
    """
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    match = np.full(len(similarity), -1)
    match[rows] = columns
    return match
