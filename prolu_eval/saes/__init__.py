"""Sparse autoencoder variants by name. A new variant is one module and one line here."""

from prolu_eval.saes.base import (
    Normalisation,
    Normalised,
    Reconstruction,
    SparseAutoencoder,
    VariantOptions,
)
from prolu_eval.saes.batchtopk import BatchTopK, Matryoshka
from prolu_eval.saes.conversions import as_jumprelu
from prolu_eval.saes.cross_layer import CrossLayerTranscoder
from prolu_eval.saes.crosscoder import Crosscoder
from prolu_eval.saes.gated import Gated
from prolu_eval.saes.jumprelu import JumpRelu
from prolu_eval.saes.matching_pursuit import MatchingPursuit
from prolu_eval.saes.nnls import Nnls
from prolu_eval.saes.prolu import Prolu
from prolu_eval.saes.prolu_relu_hybrid import ProluReluHybrid
from prolu_eval.saes.relu import Relu
from prolu_eval.saes.tanh_relu import TanhRelu
from prolu_eval.saes.topk import AbsTopK, GroupMax, TopK
from prolu_eval.saes.trec import Tlin, Trec

VARIANTS: dict[str, type[SparseAutoencoder]] = {
    cls.variant: cls
    for cls in (
        Relu,
        Prolu,
        ProluReluHybrid,
        Trec,
        Tlin,
        JumpRelu,
        Gated,
        TopK,
        AbsTopK,
        GroupMax,
        BatchTopK,
        Matryoshka,
        MatchingPursuit,
        TanhRelu,
        Nnls,
    )
}

# Variants that read and reconstruct several sites. Statements about the site of an autoencoder hold
# for each of their sites.
OF_SEVERAL_SITES: dict[str, type[SparseAutoencoder]] = {
    cls.variant: cls for cls in (CrossLayerTranscoder, Crosscoder)
}

__all__ = [
    "OF_SEVERAL_SITES",
    "VARIANTS",
    "AbsTopK",
    "BatchTopK",
    "CrossLayerTranscoder",
    "Crosscoder",
    "Gated",
    "GroupMax",
    "JumpRelu",
    "MatchingPursuit",
    "Matryoshka",
    "Nnls",
    "Normalisation",
    "Normalised",
    "Prolu",
    "ProluReluHybrid",
    "Reconstruction",
    "Relu",
    "SparseAutoencoder",
    "TanhRelu",
    "Tlin",
    "TopK",
    "Trec",
    "VariantOptions",
    "as_jumprelu",
]
