"""The explained variance that others have published, a mean over tokens, on a sample of them.

See ``docs/explained_variance.md``. It depends on the batch whose mean is taken: here the batch is
the sample of activations that scale consistency is measured on, a pair of each sequence.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from prolu_eval.evaluation.scale_consistency import Sample
from prolu_eval.metrics import LEGACY_COLUMNS
from prolu_eval.saes import SparseAutoencoder


@torch.inference_mode()
def legacy_sums(
    sae: SparseAutoencoder, pairs: Sample, n_rows: int
) -> dict[str, NDArray[np.float64]]:
    """Sums per row [n_rows] of the columns of the legacy form; none of a transcoder.

    Of a transcoder, what it stands for is not in the sample. Activations that are their mean, whose
    ratio is undefined, are left out.
    """
    if sae.transcodes:
        return {}
    x = torch.stack([pairs.first, pairs.second], 1).to(sae.W_dec.dtype)
    error = (x - sae(x)).double().square().sum(-1)
    deviation = (x - x.mean((0, 1))).double().square().sum(-1)
    known = deviation > 0
    ratio = torch.where(known, error / deviation, 0.0)
    sums = {}
    for column, values in zip(LEGACY_COLUMNS, (ratio, known), strict=True):
        sums[column] = np.zeros(n_rows)
        sums[column][pairs.row.numpy()] = values.double().sum(1).cpu().numpy()
    return sums
