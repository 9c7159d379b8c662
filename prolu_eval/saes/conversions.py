"""Exact conversions between variants, and between units of an autoencoder's input."""

from collections.abc import Callable

import torch
from torch import Tensor

from prolu_eval.saes.base import SparseAutoencoder
from prolu_eval.saes.batchtopk import BatchTopK, Matryoshka
from prolu_eval.saes.gated import Gated
from prolu_eval.saes.jumprelu import JumpRelu
from prolu_eval.saes.prolu import Prolu
from prolu_eval.saes.prolu_relu_hybrid import ProluReluHybrid
from prolu_eval.saes.relu import Relu
from prolu_eval.saes.trec import Trec


def _relu(sae: Relu) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ones_like(sae.b_enc), sae.b_enc, torch.zeros_like(sae.b_enc)


def _prolu(sae: Prolu) -> tuple[Tensor, Tensor, Tensor]:
    zero = torch.zeros_like(sae.b_enc)
    return torch.ones_like(sae.b_enc), zero, (-sae.b_enc).clamp(min=0)


def _hybrid(sae: ProluReluHybrid) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ones_like(sae.b_enc), sae.b_enc.clamp(min=0), (-sae.b_enc).clamp(min=0)


def _trec(sae: Trec) -> tuple[Tensor, Tensor, Tensor]:
    zero = sae.W_dec.new_zeros(sae.d_sae)
    return zero + 1, zero, zero + sae.theta


def _gated(sae: Gated) -> tuple[Tensor, Tensor, Tensor]:
    scale = sae.r_mag.exp()
    return scale, sae.b_mag, sae.b_mag - sae.b_gate * scale


def _batchtopk(sae: BatchTopK) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ones_like(sae.b_enc), sae.b_enc, sae.threshold.expand(sae.d_sae).clone()


# Functions that return a factor for W_enc's columns, b_enc and the threshold. [d_sae] each
_AS_JUMPRELU: dict[type[SparseAutoencoder], Callable[..., tuple[Tensor, Tensor, Tensor]]] = {
    Relu: _relu,
    Prolu: _prolu,
    ProluReluHybrid: _hybrid,
    Trec: _trec,
    Gated: _gated,
    BatchTopK: _batchtopk,
    Matryoshka: _batchtopk,
}


@torch.no_grad()
def as_jumprelu(sae: SparseAutoencoder) -> JumpRelu | None:
    """The JumpReLU autoencoder with the same codes and reconstructions; None if there is none.

    ReLU has threshold 0. ProLU has threshold -b and no bias where b < 0. A gated autoencoder, whose
    gate and magnitude share an encoder, has threshold b_mag - b_gate exp(r_mag) on the magnitude.
    BatchTopK at inference has one threshold for all features.
    """
    if isinstance(sae, JumpRelu):
        return sae
    parts = _AS_JUMPRELU.get(type(sae))
    if parts is None:
        return None
    factor, b_enc, threshold = parts(sae)
    result = JumpRelu(
        sae.d_in,
        sae.d_sae,
        d_out=sae.d_out if sae.transcodes else None,
        skip=sae.skip,
        apply_b_dec_to_input=sae.apply_b_dec_to_input,
        normalisation=sae.normalisation,
    )
    tensors = {
        "W_enc": sae.W_enc * factor,
        "b_enc": b_enc,
        "threshold": threshold,
        "W_dec": sae.W_dec,
        "b_dec": sae.b_dec,
        **({"W_skip": sae.W_skip} if sae.skip else {}),
    }
    for name, tensor in tensors.items():
        result.get_parameter(name).data = tensor.detach().clone()
    return result.train(sae.training)
