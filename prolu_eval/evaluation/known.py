"""Measuring autoencoders on a benchmark, where there is no language model to splice them into.

All metrics of activations are measured as in a language model. There are no next tokens, so their
number is zero, and cross-entropy and KL are undefined.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prolu_eval.errors import EvaluationError
from prolu_eval.evaluation.autoencoding import Activations, Autoencoding, Sizes, by_row
from prolu_eval.evaluation.engine import REFERENCE_COLUMNS, SPLICED_COLUMNS
from prolu_eval.evaluation.features import FOLDS
from prolu_eval.evaluation.measurer import check_widths
from prolu_eval.evaluation.sums import Measurement, Sums
from prolu_eval.runs import Run
from prolu_eval.saes import SparseAutoencoder
from prolu_eval.synthetic import HOOK, SyntheticActivations
from prolu_eval.tokens import TokenRows

# Number of samples that are drawn together.
_SAMPLES = 8192


class KnownFeatures:
    """Measures autoencoders on samples of a benchmark.

    Args:
        model: the benchmark.
        tokens: the indices of samples, in rows.
        batch_size: rows per batch; None for a fast choice.
        n_examples: how many of the strongest activations of each feature are kept.
        progress: a function that is called with the number of rows done since its last call.
    """

    hook = HOOK

    def __init__(
        self,
        model: SyntheticActivations,
        tokens: TokenRows,
        *,
        batch_size: int | None = None,
        n_examples: int = 0,
        progress: Callable[[int], Any] = lambda _: None,
    ) -> None:
        self.model, self.tokens = model, tokens
        self._batch_size = batch_size or max(1, _SAMPLES // tokens.ids.shape[1])
        self._n_examples, self._progress = n_examples, progress

    @property
    def reference_columns(self) -> tuple[str, ...]:
        """The columns that :meth:`reference` sums."""
        return REFERENCE_COLUMNS

    def check(self, run: Run, sae: SparseAutoencoder) -> None:
        """Check that a run's autoencoder has the benchmark's width.

        Raises:
            CheckpointError: if it does not.
        """
        read = str(run.hook) if sae.transcodes else HOOK
        check_widths(self.model, run, sae, [read], [HOOK])

    @torch.inference_mode()
    def measure_saes(
        self, saes: Mapping[str, SparseAutoencoder], rows: range | None = None
    ) -> dict[str, Measurement | EvaluationError]:
        """Measure autoencoders together, by name, on consecutive rows (all of them by default).

        An autoencoder whose reconstructions are not finite gets an error instead of a measurement.
        """
        model, rows = self.model, rows or range(len(self.tokens))
        running = {
            name: Autoencoding(
                sae, len(rows), model.device, model.dtype, Sizes.of(model.device),
                n_examples=self._n_examples,
            )
            for name, sae in saes.items()
        }  # fmt: skip
        for first, given in self._activations(rows):
            for autoencoding in running.values():
                autoencoding.reconstruct(given, first)
            self._progress((len(given.starts) - 1) * len(running))
        return {name: _measurement(name, done, len(rows)) for name, done in running.items()}

    @torch.inference_mode()
    def sum_of_activations(self, rows: range | None = None) -> tuple[NDArray[np.float64], int]:
        """The sum of the activations of rows, and their number. [d], n"""
        rows = rows or range(len(self.tokens))
        total = torch.zeros(self.model.width(HOOK), dtype=torch.float64, device=self.model.device)
        n = 0
        for _, given in self._activations(rows):
            total += given.x.double().sum(0)
            n += len(given.x)
            self._progress(len(given.starts) - 1)
        return total.cpu().numpy(), n

    @torch.inference_mode()
    def mean_norms(self, rows: range) -> tuple[float, ...]:
        """The mean L2 norm of the samples of rows, at the one hook point."""
        norms = [batch.x.double().norm(dim=1) for _, batch in self._activations(rows)]
        return (float(torch.cat(norms).mean()),)

    @torch.inference_mode()
    def reference(self, mean: NDArray[np.float64], rows: range | None = None) -> Sums:
        """Numbers of samples, and their squared distances from the mean [d]. [n_rows] each"""
        rows = rows or range(len(self.tokens))
        sums = {column: np.zeros(len(rows)) for column in REFERENCE_COLUMNS}
        centre = torch.from_numpy(mean).to(self.model.device)
        for first, given in self._activations(rows):
            here = slice(first, first + len(given.starts) - 1)
            deviation = (given.x.double() - centre).square().sum(1)
            sums["n"][here] = given.starts.diff().cpu().numpy()
            sums["squared_deviation"][here] = by_row(deviation[None], given.starts)[0].cpu().numpy()
            self._progress(len(given.starts) - 1)
        return sums

    def _activations(self, rows: range) -> Iterator[tuple[int, Activations]]:
        """The samples of rows in batches, each with the index of its first row among the rows."""
        device, length = self.model.device, self.tokens.ids.shape[1]
        for start in range(rows.start, rows.stop, self._batch_size):
            stop = min(start + self._batch_size, rows.stop)
            x = self.model.activations(self.tokens.ids[start:stop], HOOK).flatten(0, 1)
            starts = torch.arange(stop - start + 1, device=device) * length
            place = torch.arange(start * length, stop * length, device=device)
            yield start - rows.start, Activations(x, starts, place // length % FOLDS, place)


def _measurement(name: str, done: Autoencoding, n_rows: int) -> Measurement | EvaluationError:
    sums = done.sums.by_column()
    if not all(np.isfinite(values).all() for values in sums.values()):
        return EvaluationError(name, "reconstructs to NaN or infinity", "check its weights")
    nothing = {column: np.zeros(n_rows) for column in SPLICED_COLUMNS}
    return Measurement({**sums, **nothing}, done.features, done.examples)
