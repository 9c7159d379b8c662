"""What the overlap of decoder rows says about L0: too low, too high, or about right."""

import numpy as np

from prolu_eval.analysis.groups import Group
from prolu_eval.estimates import number

_KEY = "decoder_cosine"
# The fewest configurations of a variant among which a least overlap is looked for.
_LEAST = 4


def l0_diagnostic(group: Group) -> list[str]:
    """A sentence for each variant with four configurations or more, after arXiv 2508.16560.

    Decoder rows overlap least at the L0 that suits the data; both below and above it, latents mix
    correlated features. Runs that differ in nothing but the seed count by their mean.
    """
    table = group.table
    if _KEY not in table:
        return []
    sentences = []
    labels = table["label"].to_numpy()
    l0, overlap = (table[key].to_numpy(float) for key in ("l0", _KEY))
    for label in group.labels:
        rows = [rows for rows in group.configurations if labels[rows[0]] == label]
        points = np.array([[l0[r].mean(), overlap[r].mean()] for r in rows]).reshape(-1, 2)
        points = points[np.isfinite(points).all(1)]
        points = points[np.argsort(points[:, 0])]
        if len(points) < _LEAST:
            continue
        place = int(points[:, 1].argmin())
        at = number(points[place, 0])
        if place == 0:
            said = f"least at their lowest L0, {at}: every L0 of these runs may be too high"
        elif place == len(points) - 1:
            said = f"least at their highest L0, {at}: every L0 of these runs may be too low"
        else:
            said = f"least at L0 {at}: a lower L0 is likely too low, a higher one too high"
        sentences.append(f"{label}: decoder rows overlap {said}.")
    return sentences
