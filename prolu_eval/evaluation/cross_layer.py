"""Measuring cross-layer transcoders: every MLP's output replaced at once, and each layer's alone.

The output site is a range of hook points, ``blocks.0-25.hook_mlp_out``. What is said of x and x_hat
at one site is said of all of them stacked: squared errors add up over layers, and cosines and
ratios of norms are means over them. Reconstructions are compared on the clean pass. In the pass in
which all are replaced, each layer reads what that very pass comes to, replacements before it
included.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prolu_eval.errors import CheckpointError, EvaluationError
from prolu_eval.evaluation.autoencoding import (
    CODE_COLUMNS,
    RECONSTRUCTION_COLUMNS,
    by_row,
    compared,
)
from prolu_eval.evaluation.batches import Batch
from prolu_eval.evaluation.engine import (
    CLEAN_AND_ABLATED_COLUMNS,
    COUNT_COLUMNS,
    REFERENCE_COLUMNS,
    SPLICED_COLUMNS,
    Engine,
)
from prolu_eval.evaluation.features import FeatureSums
from prolu_eval.evaluation.losses import cross_entropies_and_kls, cross_entropy
from prolu_eval.evaluation.measurer import check_widths
from prolu_eval.evaluation.sums import Measurement, RowSums, Sums
from prolu_eval.lm import Pass
from prolu_eval.results import Array
from prolu_eval.runs import Run, hooks_in
from prolu_eval.saes import CrossLayerTranscoder, SparseAutoencoder

_LAYER_COLUMNS = ("l0", "squared_error", *SPLICED_COLUMNS)
# Hidden states of replaced passes that are held together.
_READ_OUT_TOGETHER = 8
# Sites whose activations take no more memory than a batch of the usual size is made for.
_SITES_AT_NO_COST = 4
# More of a layer's codes than this share are decoded by a dense product.
_DENSE_ABOVE = 0.25


def of_layer(name: str, layer: int) -> str:
    """What a layer's own column is called."""
    return f"layer/{layer}/{name}"


def per_layer(sums: Mapping[str, Array]) -> dict[str, Array]:
    """What is known of each layer by itself, from sums per row. [n_layers] each

    ``l0`` of the features that read there; ``fvu``, the fraction of variance unexplained at the
    layer's output, on the clean pass; ``ce_degradation`` and ``kl`` with that output alone put in.
    """
    n = sum(name.endswith("/squared_deviation") for name in sums)
    if not n:
        return {}
    total = {name: float(values.sum()) for name, values in sums.items()}

    def ratio(name: str, below: Callable[[int], str]) -> NDArray[np.float64]:
        pairs = [(total[of_layer(name, i)], total[below(i)]) for i in range(n)]
        return np.array([above / under if under else np.nan for above, under in pairs])

    spliced, kl = (ratio(name, lambda _: "n_next") for name in SPLICED_COLUMNS)
    clean = total["ce_clean"] / total["n_next"] if total["n_next"] else np.nan
    return {
        "l0": ratio("l0", lambda _: "n"),
        "fvu": ratio("squared_error", lambda i: of_layer("squared_deviation", i)),
        "ce_degradation": spliced - clean,
        "kl": kl,
    }


class CrossLayerEngine(Engine):
    """Measures cross-layer transcoders that write one range of hook points, as :class:`Engine`."""

    @cached_property
    def hooks(self) -> list[str]:
        """The hook points of the range."""
        return hooks_in(self.hook)

    @property
    def reference_columns(self) -> tuple[str, ...]:
        own = (of_layer("squared_deviation", i) for i in range(len(self.hooks)))
        return (*REFERENCE_COLUMNS, *own)

    def check(self, run: Run, sae: SparseAutoencoder) -> None:
        read = hooks_in(str(run.hook))
        if not isinstance(sae, CrossLayerTranscoder) or len(read) != len(self.hooks):
            raise CheckpointError(
                run.path,
                f"does not read {len(self.hooks)} hook points ({run.hook})",
                "name its ranges with --hook and --hook-out, as blocks.0-11.hook_mlp_out",
            )
        check_widths(self.model, run, sae, zip(read, self.hooks, strict=True))

    def _usual_batch_size(self) -> int:
        """Fewer rows than for one hook point, since a pass keeps the activations of all."""
        usual = super()._usual_batch_size()
        return max(1, min(usual, usual * _SITES_AT_NO_COST // len(self.hooks)))

    @torch.inference_mode()
    def _measure(
        self, saes: Mapping[str, SparseAutoencoder], rows: range
    ) -> dict[str, Measurement | EvaluationError]:
        model, n_layers = self.model, len(self.hooks)
        own = tuple(of_layer(name, i) for i in range(n_layers) for name in _LAYER_COLUMNS)
        columns = (*CODE_COLUMNS, *RECONSTRUCTION_COLUMNS, *SPLICED_COLUMNS, *own)
        transcoders = {
            name: cast(CrossLayerTranscoder, sae.to(model.device, model.dtype))
            for name, sae in saes.items()
        }
        sums = {name: RowSums(columns, len(rows), model.device) for name in saes}
        features = {name: FeatureSums(sae.d_sae, model.device) for name, sae in saes.items()}
        read = {name: hooks_in(self.inputs[name]) for name in saes}
        every = sorted({hook for hooks in read.values() for hook in hooks})
        for batch in self._batches(rows):
            passes = model.clean_at(batch.ids, self.hooks, every)
            for name, sae in transcoders.items():
                self._add(sae, read[name], batch, passes, sums[name], features[name])
                self._progress(len(batch.ids))
        return {
            name: Measurement(found, features[name], None)
            if all(np.isfinite(values).all() for values in found.values())
            else EvaluationError(name, "reconstructs to NaN or infinity", "try --dtype float32")
            for name, found in ((name, own_sums.by_column()) for name, own_sums in sums.items())
        }

    def _add(
        self,
        sae: CrossLayerTranscoder,
        read: Sequence[str],
        batch: Batch,
        passes: Sequence[Pass],
        sums: RowSums,
        features: FeatureSums,
    ) -> None:
        """Add up the statistics of one transcoder over a batch."""
        first, model = batch.first, self.model
        inputs = [batch.counted(passes[0].inputs[hook]) for hook in read]
        answer = _Answer(sae, self._sizes.codes)
        codes = torch.zeros(len(CODE_COLUMNS), len(inputs[0]), device=model.device)
        for i, x in enumerate(inputs):
            of_codes = answer.read(i, x, features, batch.fold)
            sums.add((of_layer("l0", i),), first, by_row(of_codes[:1], batch.starts))
            codes += of_codes
        features.count_tokens(batch.fold)
        sums.add(CODE_COLUMNS, first, by_row(codes, batch.starts))
        fits = torch.zeros(len(RECONSTRUCTION_COLUMNS), len(inputs[0]), device=model.device)
        for i, clean in enumerate(passes):
            fit = compared(batch.counted(clean.activation), answer.outputs[i])
            sums.add((of_layer("squared_error", i),), first, by_row(fit[:1], batch.starts))
            fits += fit
        fits[1:3] /= len(passes)  # cosines and ratios of norms
        sums.add(RECONSTRUCTION_COLUMNS, first, by_row(fits, batch.starts))
        alone = (tuple(of_layer(c, i) for c in SPLICED_COLUMNS) for i in range(len(passes)))
        names: list[tuple[str, ...]] = [SPLICED_COLUMNS, *alone]
        for own, pair in zip(names, self._losses(sae, read, batch, passes, answer), strict=True):
            sums.add(own, first, by_row(torch.stack(pair), batch.next_starts))

    def _losses(
        self,
        sae: CrossLayerTranscoder,
        read: Sequence[str],
        batch: Batch,
        passes: Sequence[Pass],
        answer: "_Answer",
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Cross-entropy and KL with all outputs replaced, then with each alone. [M] each"""
        wanted = batch.next_of(passes[0].hidden)

        def replaced(layer: int | None) -> Tensor:
            if layer is None:
                return batch.next_of(self._all_replaced(sae, read, batch))
            y_hat = answer.outputs[layer]
            return self._resumed(batch, passes[layer], y_hat, self.hooks[layer])

        which = [None, *range(len(passes))]
        for start in range(0, len(which), _READ_OUT_TOGETHER):
            hidden = [replaced(layer) for layer in which[start : start + _READ_OUT_TOGETHER]]
            yield from cross_entropies_and_kls(
                self.model.logits, wanted, hidden, batch.targets, self.model.vocab_size
            )

    def _all_replaced(self, sae: CrossLayerTranscoder, read: Sequence[str], batch: Batch) -> Tensor:
        """Hidden states with every output replaced by what the pass's own inputs lead to."""
        answer = _Answer(sae, self._sizes.codes)

        def reading(layer: int, x: Tensor) -> None:
            answer.read(layer, batch.counted(x))

        def writing(layer: int, y: Tensor) -> Tensor:
            return batch.put(y, answer.outputs[layer])

        return self.model.answered(batch.ids, read, self.hooks, reading, writing)

    @torch.inference_mode()
    def _sum_of_activations(self, rows: range) -> tuple[NDArray[np.float64], int]:
        total = torch.zeros(sum(map(self.model.width, self.hooks)), dtype=torch.float64)
        total, n = total.to(self.model.device), 0
        for batch in self._batches(rows):
            passes = self.model.clean_at(batch.ids, self.hooks, ())
            total += torch.cat(
                [batch.counted(clean.activation).double().sum(0) for clean in passes]
            )
            n += len(batch.position)
            self._progress(len(batch.ids))
        return total.cpu().numpy(), n

    @torch.inference_mode()
    def _reference(self, mean: NDArray[np.float64], rows: range) -> Sums:
        model, n_layers = self.model, len(self.hooks)
        centres = torch.from_numpy(mean).to(model.device).chunk(n_layers)
        sums = RowSums(self.reference_columns, len(rows), model.device)
        for batch in self._batches(rows):
            passes = model.clean_at(batch.ids, self.hooks, ())
            zeros = [torch.zeros_like(centre) for centre in centres]
            passed = (passes[0].hidden, self._ablated(batch, zeros), self._ablated(batch, centres))
            hidden = [batch.next_of(of_pass) for of_pass in passed]
            losses = [
                cross_entropy(model.logits, of_pass, batch.targets, model.vocab_size)
                for of_pass in hidden
            ]
            counts = torch.stack([batch.starts.diff(), batch.next_starts.diff()])
            sums.add(COUNT_COLUMNS, batch.first, counts)
            by_loss = by_row(torch.stack(losses), batch.next_starts)
            sums.add(CLEAN_AND_ABLATED_COLUMNS, batch.first, by_loss)
            for i, (clean, centre) in enumerate(zip(passes, centres, strict=True)):
                y = batch.counted(clean.activation).double()
                deviation = by_row((y - centre).square().sum(1)[None], batch.starts)
                sums.add(("squared_deviation",), batch.first, deviation)
                sums.add((of_layer("squared_deviation", i),), batch.first, deviation)
            self._progress(len(batch.ids))
        return sums.by_column()

    def _ablated(self, batch: Batch, constants: Sequence[Tensor]) -> Tensor:
        """Hidden states with every output replaced by a constant of its own. [d] each"""

        def put(layer: int, y: Tensor) -> Tensor:
            return batch.put(y, constants[layer].expand(len(batch.position), -1))

        return self.model.answered(batch.ids, (), self.hooks, lambda *_: None, put)


class _Answer:
    """Outputs of a cross-layer transcoder, as its inputs come in from the first layer on.

    ``outputs`` are those of each layer, complete once that layer has been read. [N, d_out] each
    """

    def __init__(self, sae: CrossLayerTranscoder, n_codes: int) -> None:
        self._sae = sae
        self._n = max(1, n_codes * sae.n_layers // sae.d_sae)
        self.outputs: list[Tensor] = []

    def read(
        self, layer: int, x: Tensor, features: FeatureSums | None = None, fold: Tensor | None = None
    ) -> Tensor:
        """Take in what a layer reads [N, d_in]; gives the sums of its codes. [5, N] float32

        With ``features``, which features fire is added up, in the fold [N] of each token.
        """
        sae = self._sae
        x = x.to(sae.get_parameter("b_dec_0").dtype)
        if not layer:
            zero = x.new_zeros(len(x), sae.d_out)
            self.outputs = [zero.clone() for _ in range(sae.n_layers)]
        self.outputs[layer] += sae.constant(layer, x)
        norms = sae.decoder_norms(layer)
        sums = x.new_zeros(len(CODE_COLUMNS), len(x), dtype=torch.float32)
        for start in range(0, len(x), self._n):
            chunk = slice(start, start + self._n)
            codes = sae.encode_layer(layer, x[chunk])
            token, feature = codes.nonzero(as_tuple=True)
            value = codes[token, feature]
            if len(value) > _DENSE_ABOVE * codes.numel():
                written = sae.written(layer, codes)
            else:
                written = _written(
                    sae.get_parameter(f"W_dec_{layer}"), token, feature, value, len(codes)
                )
            for later in range(written.shape[1]):
                self.outputs[layer + later][chunk] += written[:, later]
            size = value.float().abs()
            weighted = size * norms[feature]
            of_active = (torch.ones_like(size), weighted, size, weighted.sqrt(), size.sqrt())
            sums[:, chunk].index_add_(1, token, torch.stack(of_active))
            if features is not None and fold is not None:
                first = layer * codes.shape[1]
                features.add(feature + first, value, fold[chunk][token])
        return sums


def _written(decoder: Tensor, token: Tensor, feature: Tensor, value: Tensor, n: int) -> Tensor:
    """What active codes add, token by token. [n_features, n_layers, d] -> [n, n_layers, d]"""
    starts = torch.searchsorted(token, torch.arange(n, device=token.device))
    summed = torch.nn.functional.embedding_bag(
        feature, decoder.flatten(1), starts, mode="sum", per_sample_weights=value
    )
    return summed.reshape(n, *decoder.shape[1:])
