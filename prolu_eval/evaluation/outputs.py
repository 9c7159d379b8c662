"""Outputs of autoencoders of several sites, computed as their inputs become known site by site.

Almost all codes are zero. Codes are computed densely, for some tokens at a time, and outputs are
added up from the active codes alone.
"""

from typing import Protocol

import torch
from torch import Tensor

from prolu_eval.evaluation.autoencoding import CODE_COLUMNS
from prolu_eval.evaluation.features import FeatureSums
from prolu_eval.saes import Crosscoder, CrossLayerTranscoder

OfSeveralSites = CrossLayerTranscoder | Crosscoder
# If more than this share of codes is active, they are decoded by a dense product.
_DENSE_ABOVE = 0.25


class Outputs(Protocol):
    """The outputs of an autoencoder of several sites for tokens, whose inputs are read in order.

    ``sites`` are the outputs, [N, d_out] each. An output is complete as soon as all inputs on which
    it depends have been read.
    """

    sites: list[Tensor]

    def read(
        self, site: int, x: Tensor, features: FeatureSums | None = None, fold: Tensor | None = None
    ) -> Tensor:
        """Read a site's activations [N, d_in]; return the sums of the new codes. [5, N] float32

        If ``features`` is given, the firing of features is added to it, by each token's fold [N].
        """
        ...


def outputs_of(sae: OfSeveralSites, n_codes: int) -> Outputs:
    """The outputs of an autoencoder, computed for at most ``n_codes`` codes at one time."""
    if isinstance(sae, Crosscoder):
        return _Shared(sae, max(1, n_codes // sae.d_sae))
    return _ByLayer(sae, max(1, n_codes * sae.n_sites // sae.d_sae))


class _ByLayer:
    """Outputs of a cross-layer transcoder: a layer's is complete once the layer has been read."""

    def __init__(self, sae: CrossLayerTranscoder, n_tokens: int) -> None:
        self._sae, self._n = sae, n_tokens
        self.sites: list[Tensor] = []

    def read(
        self, site: int, x: Tensor, features: FeatureSums | None = None, fold: Tensor | None = None
    ) -> Tensor:
        sae = self._sae
        x = x.to(sae.get_parameter("b_dec_0").dtype)
        if not site:
            zero = x.new_zeros(len(x), sae.d_out)
            self.sites = [zero.clone() for _ in range(sae.n_sites)]
        self.sites[site] += sae.constant(site, x)
        norms, decoder = sae.decoder_norms(site), sae.get_parameter(f"W_dec_{site}")
        sums = []
        for start in range(0, len(x), self._n):
            chunk = slice(start, start + self._n)
            codes = sae.encode_layer(site, x[chunk])
            token, feature = codes.nonzero(as_tuple=True)
            value = codes[token, feature]
            if len(value) > _DENSE_ABOVE * codes.numel():
                written = sae.written(site, codes)
            else:
                flat = _written(decoder.flatten(1), token, feature, value, len(codes))
                written = flat.reshape(len(codes), *decoder.shape[1:])
            for later in range(written.shape[1]):
                self.sites[site + later][chunk] += written[:, later]
            sums.append(_sums(token, value, norms[feature], len(codes)))
            if features is not None and fold is not None:
                features.add(feature + site * codes.shape[1], value, fold[chunk][token])
        return torch.cat(sums, 1)


class _Shared:
    """Outputs of a crosscoder, whose codes need every site: complete once the last one is read."""

    def __init__(self, sae: Crosscoder, n_tokens: int) -> None:
        self._sae, self._n = sae, n_tokens
        self._inputs: list[Tensor] = []
        self.sites: list[Tensor] = []

    def read(
        self, site: int, x: Tensor, features: FeatureSums | None = None, fold: Tensor | None = None
    ) -> Tensor:
        sae = self._sae
        if not site:
            self._inputs = []
        self._inputs.append(x.to(sae.b_enc.dtype))
        if site < sae.n_sites - 1:
            return x.new_zeros(len(CODE_COLUMNS), len(x), dtype=torch.float32)
        inputs, norms, sums = torch.stack(self._inputs, 1), sae.decoder_norms(), []
        biases = [sae.get_parameter(f"b_dec_{i}") for i in range(sae.n_sites)]
        self.sites = [bias.expand(len(x), -1).clone() for bias in biases]
        for start in range(0, len(x), self._n):
            chunk = slice(start, start + self._n)
            codes = sae.encode(inputs[chunk])
            token, feature = codes.nonzero(as_tuple=True)
            value = codes[token, feature]
            dense = len(value) > _DENSE_ABOVE * codes.numel()
            for i, output in enumerate(self.sites):
                decoder = sae.get_parameter(f"W_dec_{i}")
                output[chunk] += (
                    codes @ decoder
                    if dense
                    else _written(decoder, token, feature, value, len(codes))
                )
            sums.append(_sums(token, value, norms[feature], len(codes)))
            if features is not None and fold is not None:
                features.add(feature, value, fold[chunk][token])
        return torch.cat(sums, 1)


def _sums(token: Tensor, value: Tensor, norms: Tensor, n: int) -> Tensor:
    """The values of :data:`CODE_COLUMNS` for n tokens, from active codes. [5, n] float32"""
    size = value.float().abs()
    weighted = size * norms
    of_active = (torch.ones_like(size), weighted, size, weighted.sqrt(), size.sqrt())
    zero = size.new_zeros(len(CODE_COLUMNS), n)
    return zero.index_add_(1, token, torch.stack(of_active))


def _written(decoder: Tensor, token: Tensor, feature: Tensor, value: Tensor, n: int) -> Tensor:
    """The sum of the active codes' decoder rows for each token. [n_features, d] -> [n, d]"""
    starts = torch.searchsorted(token, torch.arange(n, device=token.device))
    return torch.nn.functional.embedding_bag(
        feature, decoder, starts, mode="sum", per_sample_weights=value
    )
