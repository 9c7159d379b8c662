"""Encoders compiled once for all autoencoders of a kind, their weights passed in."""

from collections.abc import Callable
from functools import lru_cache
from types import FunctionType

import torch
from torch import Tensor, nn

from prolu_eval.saes import VARIANTS, SparseAutoencoder
from prolu_eval.saes.base import VariantOptions

Encoder = Callable[[Tensor], Tensor]


def compiled_encoder(sae: SparseAutoencoder) -> Encoder:
    """Codes of normalised activations, as the autoencoder's own. [n, d_in] -> [n, d_sae]"""
    encode = _compiled(sae.variant, sae.d_in, sae.d_sae, sae.options, sae.apply_b_dec_to_input)
    weights: dict[str, Tensor] = {f"sae.{name}": tensor for name, tensor in sae.named_parameters()}
    return lambda z: encode(weights, z)


class _Encoder(nn.Module):
    def __init__(self, sae: SparseAutoencoder) -> None:
        super().__init__()
        self.sae = sae

    def forward(self, z: Tensor) -> Tensor:
        return self.sae.activate(self.sae.pre_activation(z))


@lru_cache(maxsize=32)
def _compiled(
    variant: str,
    d_in: int,
    d_sae: int,
    options: VariantOptions,
    apply_b_dec_to_input: bool,
) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    with torch.device("meta"):
        template = VARIANTS[variant](
            d_in, d_sae, options, apply_b_dec_to_input=apply_b_dec_to_input
        )
    encoder = _Encoder(template).eval()

    def encode(weights: dict[str, Tensor], z: Tensor) -> Tensor:
        codes: Tensor = torch.func.functional_call(encoder, weights, (z,))
        return codes

    # Compilations of one code object are limited in number, beyond which it runs eagerly.
    code = encode.__code__.replace(co_name=f"encode_{variant}")
    return torch.compile(FunctionType(code, globals(), closure=encode.__closure__))
