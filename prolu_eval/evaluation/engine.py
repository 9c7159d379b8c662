"""Measuring many autoencoders of one hook point: the model's clean pass is shared by all of them.

Transcoders belong to the hook point that they predict. Their inputs come from an earlier site of
the same clean pass. These inputs do not depend on the replacement, which comes after them, so they
are the same as in the spliced pass.

For each batch of rows, the model runs one clean pass. Each autoencoder then takes its own pass over
the captured activations, the blocks after the hook, and the losses. The ablations depend on the
model alone (:meth:`Engine.reference`). All sums are per row; they are added up on the device and
copied from it once for all rows of a call.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prolu_eval import kernels
from prolu_eval.errors import EvaluationError, MemoryShortageError
from prolu_eval.evaluation.autoencoding import Autoencoding, Sizes, by_row, choose_slots
from prolu_eval.evaluation.batches import Batch
from prolu_eval.evaluation.clean_passes import CleanPasses
from prolu_eval.evaluation.losses import cross_entropies_and_kls, cross_entropy
from prolu_eval.evaluation.measurer import check_widths
from prolu_eval.evaluation.memory import default_batch_size, is_out_of_memory, release
from prolu_eval.evaluation.sums import Measurement, RowSums, Sums
from prolu_eval.lm import LanguageModel, Pass
from prolu_eval.runs import Run
from prolu_eval.saes import SparseAutoencoder
from prolu_eval.tokens import TokenRows

# Sums that depend only on the model, the hook and the tokens, and not on the autoencoder.
COUNT_COLUMNS = ("n", "n_next")
CLEAN_AND_ABLATED_COLUMNS = ("ce_clean", "ce_zero", "ce_mean")
REFERENCE_COLUMNS = (*COUNT_COLUMNS, *CLEAN_AND_ABLATED_COLUMNS, "squared_deviation")
SPLICED_COLUMNS = ("ce_spliced", "kl")
# Number of autoencoders whose hidden states are in memory together, so that the clean pass's logits
# are computed once for all of them.
_READ_OUT_TOGETHER = 8

_T = TypeVar("_T")


class Engine:
    """Measures autoencoders at one hook point of a model on given tokens.

    Args:
        model: the language model.
        hook: the hook point.
        tokens: the rows to measure on.
        inputs: the hook points that transcoders read, by their names.
        batch_size: rows per batch; None for a number that suits the device. Whenever the device
            runs out of memory, it is halved permanently, and so is the number of codes that are
            computed at one time.
        sizes: how much of an autoencoder's pass is computed at one time; None for sizes that suit
            the device.
        n_examples: how many of the strongest activations of each feature are kept.
        progress: a function that is called with the number of rows done since its last call; each
            autoencoder's pass over a row counts.
    """

    def __init__(
        self,
        model: LanguageModel,
        hook: str,
        tokens: TokenRows,
        *,
        inputs: Mapping[str, str] | None = None,
        batch_size: int | None = None,
        sizes: Sizes | None = None,
        n_examples: int = 0,
        progress: Callable[[int], Any] = lambda _: None,
    ) -> None:
        self.model, self.hook, self.tokens = model, hook, tokens
        self.batch_size = batch_size or self._usual_batch_size()
        self._sizes = sizes or Sizes.of(model.device)
        self._n_examples, self._progress = n_examples, progress
        self.inputs = dict(inputs or {})
        self._passes = CleanPasses(model, hook, frozenset(self.inputs.values()))

    @property
    def reference_columns(self) -> tuple[str, ...]:
        """The columns that :meth:`reference` sums."""
        return REFERENCE_COLUMNS

    def check(self, run: Run, sae: SparseAutoencoder) -> None:
        """Check that a run's autoencoder suits its hook points.

        Raises:
            CheckpointError: if their widths differ.
            ModelError: if a transcoder's input site cannot be read to replace its output site.
        """
        read = str(run.hook) if sae.transcodes else self.hook
        check_widths(self.model, run, sae, [read], [self.hook])

    def measure_saes(
        self, saes: Mapping[str, SparseAutoencoder], rows: range | None = None
    ) -> dict[str, Measurement | EvaluationError]:
        """Measure autoencoders together, by name, on consecutive rows (all of them by default).

        An autoencoder whose reconstructions are not finite gets an error instead of a measurement.

        Raises:
            EvaluationError: if a single row does not fit in the device's memory.
        """
        return self.within_memory(lambda: self._measure(saes, self._all(rows)))

    def sum_of_activations(self, rows: range | None = None) -> tuple[NDArray[np.float64], int]:
        """The sum of the activations over the counted positions of rows, and their number. [d], n

        Raises:
            EvaluationError: if an activation is not finite, or the device's memory is too small.
        """
        total, n = self.within_memory(lambda: self._sum_of_activations(self._all(rows)))
        if not np.isfinite(total).all():
            raise EvaluationError(
                self.hook,
                f"has NaN or infinite activations in {self.model.name}",
                "try --dtype float32, and check the model's weights",
            )
        return total, n

    def mean_norms(self, rows: range) -> tuple[float, ...]:
        """The mean L2 norm of the activations at each hook point, over rows' counted positions.

        Raises:
            EvaluationError: if it is zero or not finite, or the device's memory is too small.
        """
        totals, n = self.within_memory(lambda: self._sums_of_norms(rows))
        for total in totals:
            if not 0 < total < float("inf"):
                raise EvaluationError(
                    self.hook, f"has activations of norm {total}", "check the model's weights"
                )
        return tuple(total / n for total in totals)

    def reference(self, mean: NDArray[np.float64], rows: range | None = None) -> Sums:
        """Sums of the clean and ablated passes (:data:`REFERENCE_COLUMNS`). [n_rows] each

        ``mean`` [d] is the mean activation, by which the mean ablation replaces activations.
        """
        return self.within_memory(lambda: self._reference(mean, self._all(rows)))

    def _usual_batch_size(self) -> int:
        """Rows per batch that suit the device."""
        return default_batch_size(self.model, self.tokens.ids.shape[1])

    def _all(self, rows: range | None) -> range:
        return range(len(self.tokens)) if rows is None else rows

    def within_memory(self, work: Callable[[], _T]) -> _T:
        """Call ``work``, and again with smaller batches whenever the device runs out of memory."""
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.batch_size == 1:
                    raise MemoryShortageError(
                        self.hook,
                        f"does not fit in the memory of {self.model.device}, one row at a time",
                        "choose a smaller --context-length or --dtype, or another --device",
                    ) from None
            self.batch_size //= 2
            self._passes.forget()
            self._sizes = replace(self._sizes, codes=self._sizes.codes // 2)
            release(self.model.device)

    def _batches(self, rows: range) -> Iterator[Batch]:
        for start in range(rows.start, rows.stop, self.batch_size):
            batch = range(start, min(start + self.batch_size, rows.stop))
            yield Batch.of(self.tokens, batch, start - rows.start, self.model.device)

    @torch.inference_mode()
    def _measure(
        self, saes: Mapping[str, SparseAutoencoder], rows: range
    ) -> dict[str, Measurement | EvaluationError]:
        model, n = self.model, len(rows)
        running = [
            Autoencoding(
                sae, n, model.device, model.dtype, self._sizes, n_examples=self._n_examples
            )
            for sae in saes.values()
        ]
        spliced = [RowSums(SPLICED_COLUMNS, n, model.device) for _ in running]
        read = [self.inputs.get(name) for name in saes]
        for batch in self._batches(rows):
            clean = self._passes.of(batch)
            activations = {site: batch.activations(clean, site) for site in dict.fromkeys(read)}
            wanted = batch.next_of(clean.hidden)
            if batch.first == 0 and running and kernels.suit(model.device, model.dtype):
                choose_slots(running, [activations[site] for site in read])
            groups = zip(_groups(running), _groups(read), _groups(spliced), strict=True)
            for together, sites, sums in groups:
                hidden = [
                    self._resumed(
                        batch, clean, autoencoding.reconstruct(activations[site], batch.first)
                    )
                    for autoencoding, site in zip(together, sites, strict=True)
                ]
                losses = cross_entropies_and_kls(
                    model.logits, wanted, hidden, batch.targets, model.vocab_size
                )
                for own, pair in zip(sums, losses, strict=True):
                    by_loss = by_row(torch.stack(pair), batch.next_starts)
                    own.add(SPLICED_COLUMNS, batch.first, by_loss)
                self._progress(len(batch.ids) * len(together))
        return dict(zip(saes, _measurements(list(saes), running, spliced), strict=True))

    def _resumed(self, batch: Batch, clean: Pass, x_hat: Tensor, hook: str | None = None) -> Tensor:
        """Hidden states at positions with a target, with x_hat [N, d] spliced in. [M, d_model]"""
        replaced = batch.put(clean.activation, x_hat)
        return batch.next_of(self.model.resume(batch.ids, hook or self.hook, clean, replaced))

    @torch.inference_mode()
    def _sum_of_activations(self, rows: range) -> tuple[NDArray[np.float64], int]:
        total = torch.zeros(self.model.width(self.hook), dtype=torch.float64)
        total, n = total.to(self.model.device), 0
        for batch in self._batches(rows):
            if self._passes.has_room_for(batch):
                x = self._passes.of(batch).activation
            else:
                x = self.model.activations(batch.ids, self.hook)
            total += x.flatten(0, 1).index_select(0, batch.position).double().sum(0)
            n += len(batch.position)
            self._progress(len(batch.ids))
        return total.cpu().numpy(), n

    @torch.inference_mode()
    def _sums_of_norms(self, rows: range) -> tuple[list[float], int]:
        """Sums of norms at each hook point, and the number of positions that they are over."""
        totals, n = torch.zeros(0, dtype=torch.float64), 0
        for batch in self._batches(rows):
            sites = [batch.counted(x) for x in self._activations_at_sites(batch)]
            sums = torch.stack([x.float().norm(dim=1).double().sum() for x in sites]).cpu()
            totals = sums if not n else totals + sums
            n += len(batch.position)
        return totals.tolist(), n

    def _activations_at_sites(self, batch: Batch) -> list[Tensor]:
        """The activations of the clean pass at each hook point. [rows, context, d] each"""
        return [self.model.activations(batch.ids, self.hook)]

    @torch.inference_mode()
    def _reference(self, mean: NDArray[np.float64], rows: range) -> Sums:
        model = self.model
        centre = torch.from_numpy(mean).to(model.device)
        sums = RowSums(REFERENCE_COLUMNS, len(rows), model.device)
        for batch in self._batches(rows):
            clean = self._passes.of(batch)
            x = batch.activations(clean).x
            passes = [batch.next_of(clean.hidden)] + [
                self._resumed(batch, clean, constant.expand(len(x), -1))
                for constant in (torch.zeros_like(centre), centre)
            ]
            losses = [
                cross_entropy(model.logits, hidden, batch.targets, model.vocab_size)
                for hidden in passes
            ]
            deviation = (x.double() - centre).square().sum(1)
            counts = torch.stack([batch.starts.diff(), batch.next_starts.diff()])
            by_loss = by_row(torch.stack(losses), batch.next_starts)
            sums.add(COUNT_COLUMNS, batch.first, counts)
            sums.add(CLEAN_AND_ABLATED_COLUMNS, batch.first, by_loss)
            sums.add(("squared_deviation",), batch.first, by_row(deviation[None], batch.starts))
            self._progress(len(batch.ids))
        return sums.by_column()


def _groups(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), _READ_OUT_TOGETHER):
        yield items[start : start + _READ_OUT_TOGETHER]


def _measurements(
    names: Sequence[str], running: Sequence[Autoencoding], spliced: Sequence[RowSums]
) -> Iterator[Measurement | EvaluationError]:
    """The measurement of each autoencoder; the sums of all are copied from the device at once."""
    pairs = list(zip(running, spliced, strict=True))
    columns = [(*autoencoding.sums.columns, *sums.columns) for autoencoding, sums in pairs]
    sums = [part.values for a, b in pairs for part in (a.sums, b)]
    ends = np.cumsum([len(of_one) for of_one in columns])
    of_all = np.split(torch.cat(sums).cpu().numpy(), ends[:-1]) if sums else ()
    for name, autoencoding, own, values in zip(names, running, columns, of_all, strict=True):
        if np.isfinite(values).all():
            by_column = dict(zip(own, values, strict=True))
            yield Measurement(by_column, autoencoding.features, autoencoding.examples)
        else:
            yield EvaluationError(name, "reconstructs to NaN or infinity", "try --dtype float32")
