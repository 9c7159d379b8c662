"""Sparse autoencoder variants by name. A new variant is one module and one line here."""

from prolu_eval.saes.base import Normalised, Reconstruction, SparseAutoencoder, VariantOptions
from prolu_eval.saes.prolu import Prolu
from prolu_eval.saes.relu import Relu

VARIANTS: dict[str, type[SparseAutoencoder]] = {cls.variant: cls for cls in (Relu, Prolu)}

__all__ = [
    "VARIANTS",
    "Normalised",
    "Prolu",
    "Reconstruction",
    "Relu",
    "SparseAutoencoder",
    "VariantOptions",
]
