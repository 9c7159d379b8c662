"""Measuring cross-layer transcoders and crosscoders: all sites replaced at once, and each alone.

The output site is several hook points, such as ``blocks.0-25.hook_mlp_out``. Metrics of x and x_hat
at one site become metrics of all sites stacked: squared errors are summed over layers, and cosines
and ratios of norms are averaged. Reconstructions are compared on the clean pass. In the pass in
which all sites are replaced, each layer of a cross-layer transcoder reads the activations of that
same pass, in which earlier layers are replaced already. A crosscoder's codes also depend on sites
after its first one, so its replacements are computed from the clean pass.
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
from prolu_eval.evaluation.outputs import OfSeveralSites, Outputs, outputs_of
from prolu_eval.evaluation.sums import Measurement, RowSums, Sums
from prolu_eval.lm import Pass
from prolu_eval.results import Array
from prolu_eval.runs import Run, hooks_in, is_of_two_models
from prolu_eval.saes import Crosscoder, SparseAutoencoder

_LAYER_COLUMNS = ("l0", "squared_error", *SPLICED_COLUMNS)
# Number of spliced passes whose hidden states are in memory together.
_READ_OUT_TOGETHER = 8
# The activations of so many sites fit in the memory that a batch of the usual size may use.
_SITES_AT_NO_COST = 4


def of_layer(name: str, layer: int) -> str:
    """The name of one layer's own column."""
    return f"layer/{layer}/{name}"


def per_layer(sums: Mapping[str, Array]) -> dict[str, Array]:
    """Metrics of each layer alone, from sums per row. [n_layers] each

    They are ``l0`` of the features that read the layer (for a crosscoder, all of them); ``fvu``,
    the fraction of variance unexplained at the layer's output on the clean pass; and
    ``ce_degradation`` and ``kl`` if only that output is replaced.
    """
    n = sum(name.endswith("/squared_deviation") for name in sums)
    if not n:
        return {}
    total = {name: float(values.sum()) for name, values in sums.items()}

    def ratio(name: str, below: Callable[[int], str]) -> NDArray[np.float64]:
        pairs = [(total[of_layer(name, i)], total[below(i)]) for i in range(n)]
        return np.array([above / under if under else np.nan for above, under in pairs])

    spliced, kl = (ratio(name, lambda _: "n_next") for name in SPLICED_COLUMNS)
    # each of two models has its own cross-entropy
    cleans = [total.get(of_layer("ce_clean", i), total["ce_clean"]) for i in range(n)]
    clean = np.array(cleans) / total["n_next"] if total["n_next"] else np.nan
    return {
        "l0": ratio("l0", lambda _: "n"),
        "fvu": ratio("squared_error", lambda i: of_layer("squared_deviation", i)),
        "ce_degradation": spliced - clean,
        "kl": kl,
    }


class CrossLayerEngine(Engine):
    """Measures autoencoders of several hook points, as :class:`Engine` measures those of one."""

    @cached_property
    def hooks(self) -> list[str]:
        """The hook points of the range."""
        return hooks_in(self.hook)

    @property
    def reference_columns(self) -> tuple[str, ...]:
        own = (of_layer("squared_deviation", i) for i in range(len(self.hooks)))
        return (*REFERENCE_COLUMNS, *own)

    def check(self, run: Run, sae: SparseAutoencoder) -> None:
        check_widths(self.model, run, sae, hooks_in(str(run.hook)), self.hooks)
        if is_of_two_models(self.hook) and not isinstance(sae, Crosscoder):
            reason = "reads one site after the other, of one model"
            raise CheckpointError(run.path, reason, "name other hook points with --hook")

    def _usual_batch_size(self) -> int:
        """Fewer rows than for one hook point, because a pass keeps all sites' activations."""
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
            name: cast(OfSeveralSites, sae.to(model.device, model.dtype))
            for name, sae in saes.items()
        }
        sums = {name: RowSums(columns, len(rows), model.device) for name in saes}
        features = {name: FeatureSums(sae.d_sae, model.device) for name, sae in saes.items()}
        read = {name: hooks_in(self.inputs.get(name, self.hook)) for name in saes}
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
        sae: OfSeveralSites,
        read: Sequence[str],
        batch: Batch,
        passes: Sequence[Pass],
        sums: RowSums,
        features: FeatureSums,
    ) -> None:
        """Add the statistics of one transcoder over a batch."""
        first, model = batch.first, self.model
        inputs = self._inputs(batch, passes, read)
        answer = outputs_of(sae, self._sizes.codes)
        by_site = torch.stack(
            [answer.read(i, x, features, batch.fold) for i, x in enumerate(inputs)]
        )
        codes = by_site.sum(0)
        for i, own in enumerate(by_site):
            l0 = codes[:1] if isinstance(sae, Crosscoder) else own[:1]
            sums.add((of_layer("l0", i),), first, by_row(l0, batch.starts))
        features.count_tokens(batch.fold)
        sums.add(CODE_COLUMNS, first, by_row(codes, batch.starts))
        fits = torch.zeros(len(RECONSTRUCTION_COLUMNS), len(inputs[0]), device=model.device)
        for i, clean in enumerate(passes):
            fit = compared(batch.counted(clean.activation), answer.sites[i])
            sums.add((of_layer("squared_error", i),), first, by_row(fit[:1], batch.starts))
            fits += fit
        fits[1:3] /= len(passes)  # cosines and ratios of norms
        sums.add(RECONSTRUCTION_COLUMNS, first, by_row(fits, batch.starts))
        alone = (tuple(of_layer(c, i) for c in SPLICED_COLUMNS) for i in range(len(passes)))
        names: list[tuple[str, ...]] = [SPLICED_COLUMNS, *alone]
        for own, pair in zip(names, self._losses(sae, read, batch, passes, answer), strict=True):
            sums.add(own, first, by_row(torch.stack(pair), batch.next_starts))

    def _inputs(self, batch: Batch, passes: Sequence[Pass], read: Sequence[str]) -> list[Tensor]:
        """The activations that are read at each site, on the clean pass. [N, d_in] each"""
        return [batch.counted(passes[0].inputs[hook]) for hook in read]

    def _losses(
        self,
        sae: OfSeveralSites,
        read: Sequence[str],
        batch: Batch,
        passes: Sequence[Pass],
        answer: Outputs,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Cross-entropy and KL with all outputs replaced, then with each alone. [M] each"""
        wanted = batch.next_of(passes[0].hidden)

        def replaced(layer: int | None) -> Tensor:
            if layer is None:
                return batch.next_of(self._all_replaced(sae, read, batch, answer))
            y_hat = answer.sites[layer]
            return self._resumed(batch, passes[layer], y_hat, self.hooks[layer])

        which = [None, *range(len(passes))]
        for start in range(0, len(which), _READ_OUT_TOGETHER):
            hidden = [replaced(layer) for layer in which[start : start + _READ_OUT_TOGETHER]]
            yield from cross_entropies_and_kls(
                self.model.logits, wanted, hidden, batch.targets, self.model.vocab_size
            )

    def _all_replaced(
        self, sae: OfSeveralSites, read: Sequence[str], batch: Batch, clean: Outputs
    ) -> Tensor:
        """Hidden states with every output replaced, computed from the same pass's inputs.

        The outputs of a crosscoder are those of the clean pass instead.
        """
        shared = isinstance(sae, Crosscoder)
        answer = clean if shared else outputs_of(sae, self._sizes.codes)

        def reading(layer: int, x: Tensor) -> None:
            answer.read(layer, batch.counted(x))

        def writing(layer: int, y: Tensor) -> Tensor:
            return batch.put(y, answer.sites[layer])

        sources = () if shared else read
        return self.model.spliced_as_read(batch.ids, sources, self.hooks, reading, writing)

    def _activations_at_sites(self, batch: Batch) -> list[Tensor]:
        return [found.activation for found in self.model.clean_at(batch.ids, self.hooks, ())]

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
            counts = torch.stack([batch.starts.diff(), batch.next_starts.diff()])
            sums.add(COUNT_COLUMNS, batch.first, counts)
            self._add_losses(batch, passes, centres, sums)
            for i, (clean, centre) in enumerate(zip(passes, centres, strict=True)):
                y = batch.counted(clean.activation).double()
                deviation = by_row((y - centre).square().sum(1)[None], batch.starts)
                sums.add(("squared_deviation",), batch.first, deviation)
                sums.add((of_layer("squared_deviation", i),), batch.first, deviation)
            self._progress(len(batch.ids))
        return sums.by_column()

    def _add_losses(
        self, batch: Batch, passes: Sequence[Pass], centres: Sequence[Tensor], sums: RowSums
    ) -> None:
        """Add cross-entropies of the clean pass and of the pass with every site ablated."""
        zeros = [torch.zeros_like(centre) for centre in centres]
        passed = (passes[0].hidden, self._ablated(batch, zeros), self._ablated(batch, centres))
        hidden = [batch.next_of(of_pass) for of_pass in passed]
        losses = [
            cross_entropy(self.model.logits, of_pass, batch.targets, self.model.vocab_size)
            for of_pass in hidden
        ]
        by_loss = by_row(torch.stack(losses), batch.next_starts)
        sums.add(CLEAN_AND_ABLATED_COLUMNS, batch.first, by_loss)

    def _ablated(self, batch: Batch, constants: Sequence[Tensor]) -> Tensor:
        """Hidden states with every output replaced by its own constant. [d] each"""

        def put(layer: int, y: Tensor) -> Tensor:
            return batch.put(y, constants[layer].expand(len(batch.position), -1))

        return self.model.spliced_as_read(batch.ids, (), self.hooks, lambda *_: None, put)
