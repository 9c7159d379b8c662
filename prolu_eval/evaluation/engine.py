"""Measuring many autoencoders of one hook point: the model's clean pass is shared by all of them.

For each batch of sequences the model runs once, clean. Each autoencoder then costs its own pass
over the captured activations, the blocks after the hook, and the losses. The ablations depend on
the model alone and are measured once.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prolu_eval.errors import EvaluationError
from prolu_eval.evaluation.autoencoding import Autoencoding
from prolu_eval.evaluation.losses import cross_entropy, cross_entropy_and_kl
from prolu_eval.lm import LanguageModel, Pass
from prolu_eval.saes import SparseAutoencoder
from prolu_eval.tokens import TokenRows

# Sums that depend on the model, the hook and the tokens alone, whatever is spliced in.
REFERENCE_COLUMNS = ("n", "n_next", "ce_clean", "ce_zero", "ce_mean", "squared_deviation")
SPLICED_COLUMNS = ("ce_spliced", "kl")

Sums = dict[str, NDArray[np.float64]]
_ACTIVATION_BYTES = 1 << 28


@dataclass
class _Batch:
    """Sequences ``start`` to ``start + len(ids)`` on the device, and their clean pass."""

    start: int
    ids: Tensor
    counted: Tensor
    clean: Pass

    def __post_init__(self) -> None:
        self.x = self.clean.activation[self.counted]
        self.sequence = self.start + self.counted.nonzero()[:, 0]
        self.with_next = self.counted.clone()
        self.with_next[:, -1] = False
        self.next_sequence = self.start + self.with_next.nonzero()[:, 0]
        self.targets = self.ids.roll(-1, 1)[self.with_next]

    def replaced(self, x_hat: Tensor) -> Tensor:
        """The activation [B, T, d] with its counted positions replaced. [N, d]"""
        activation = self.clean.activation.clone()
        activation[self.counted] = x_hat.to(activation.dtype)
        return activation


@dataclass(frozen=True)
class Measurement:
    """Per-sequence sums of one autoencoder, and the accumulator that holds its feature sums."""

    sums: Sums
    autoencoding: Autoencoding


class Engine:
    """Measures autoencoders at one hook point of a model on given tokens.

    Args:
        model: the language model.
        hook: the hook point.
        tokens: the rows to measure on.
        batch_size: sequences per batch; None for what keeps logits within a quarter GiB.
        progress: called with the number of passes done since the last call.
    """

    def __init__(
        self,
        model: LanguageModel,
        hook: str,
        tokens: TokenRows,
        *,
        batch_size: int | None = None,
        progress: Callable[[int], Any] = lambda _: None,
    ) -> None:
        self.model, self.hook, self.tokens = model, hook, tokens
        length = tokens.ids.shape[1]
        fitting = max(1, min(64, _ACTIVATION_BYTES // (4 * length * model.vocab_size)))
        self.batch_size = batch_size or fitting
        self._progress = progress
        self._reference: Mapping[str, NDArray[np.float64]] | None = None

    @property
    def n_batches(self) -> int:
        """Number of batches, each of which is one call of ``progress`` per autoencoder."""
        return -(-len(self.tokens) // self.batch_size)

    def reference(self) -> Mapping[str, NDArray[np.float64]]:
        """Sums of the clean and ablated passes (:data:`REFERENCE_COLUMNS`). [n_sequences] each"""
        if self._reference is None:
            self._reference = self._measure_reference()
        return self._reference

    def remember_reference(self, sums: Mapping[str, NDArray[np.float64]]) -> None:
        """Take the reference sums from an earlier measurement of the same model and tokens."""
        self._reference = {column: sums[column] for column in REFERENCE_COLUMNS}

    def measure(
        self, saes: Mapping[str, SparseAutoencoder]
    ) -> dict[str, Measurement | EvaluationError]:
        """Measure autoencoders together, by name.

        One whose reconstruction is not finite yields an error in the place of its measurement.

        Raises:
            EvaluationError: if the model's own activations are not finite, or of another width than
                an autoencoder's input.
        """
        reference, device, n = self.reference(), self.model.device, len(self.tokens)
        running = {name: Autoencoding(sae, n, device) for name, sae in saes.items()}
        spliced = {
            name: torch.zeros(len(SPLICED_COLUMNS), n, dtype=torch.float64, device=device)
            for name in saes
        }
        failed: dict[str, EvaluationError] = {}
        for batch in self._batches():
            clean = torch.log_softmax(batch.clean.logits[batch.with_next].float(), -1)
            for name, autoencoding in running.items():
                if name not in failed:
                    x_hat = autoencoding.reconstruct(batch.x, batch.sequence)
                    if not torch.isfinite(x_hat).all():
                        failed[name] = EvaluationError(
                            name, "reconstructs to NaN or infinity", "try --dtype float32"
                        )
                        continue
                    logits = self._resume(batch, x_hat)
                    for sums, values in zip(
                        spliced[name],
                        cross_entropy_and_kl(logits, clean, batch.targets),
                        strict=True,
                    ):
                        sums.index_add_(0, batch.next_sequence, values.double())
                self._progress(1)
        return {
            name: failed.get(name)
            or Measurement(
                {
                    **reference,
                    **{column: sums.cpu().numpy() for column, sums in autoencoding.sums.items()},
                    **dict(zip(SPLICED_COLUMNS, spliced[name].cpu().numpy(), strict=True)),
                },
                autoencoding,
            )
            for name, autoencoding in running.items()
        }

    def _rows(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Index of the first sequence, ids and mask of each batch, on the device."""
        ids, counted = self.tokens.ids, self.tokens.counted
        for start in range(0, len(ids), self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield start, ids[rows].to(self.model.device), counted[rows].to(self.model.device)

    def _batches(self) -> Iterator[_Batch]:
        for start, ids, counted in self._rows():
            batch = _Batch(start, ids, counted, self.model.clean(ids, self.hook))
            if not torch.isfinite(batch.x).all():
                raise EvaluationError(
                    self.hook,
                    f"has NaN or infinite activations in {self.model.name}",
                    "try --dtype float32, and check the model's weights",
                )
            yield batch

    def _resume(self, batch: _Batch, x_hat: Tensor) -> Tensor:
        """Next-token logits at the counted positions, x replaced by x_hat. [n_next, vocab]"""
        logits = self.model.resume(batch.ids, self.hook, batch.clean, batch.replaced(x_hat))
        return logits[batch.with_next]

    @torch.inference_mode()
    def _mean(self) -> Tensor:
        """Mean activation over the counted positions. [d]"""
        parts = [
            self.model.activations(ids, self.hook)[counted].double().sum(0)
            for _, ids, counted in self._rows()
        ]
        return torch.stack(parts).sum(0) / int(self.tokens.counted.sum())

    @torch.inference_mode()
    def _measure_reference(self) -> Sums:
        mean = self._mean()
        counted = self.tokens.counted
        sums = {
            column: torch.zeros(len(self.tokens), dtype=torch.float64, device=self.model.device)
            for column in REFERENCE_COLUMNS
        }
        sums["n"] += counted.sum(1).to(self.model.device)
        sums["n_next"] += counted[:, :-1].sum(1).to(self.model.device)
        for batch in self._batches():
            deviation = (batch.x.double() - mean).square().sum(1)
            sums["squared_deviation"].index_add_(0, batch.sequence, deviation)
            constants = {"ce_zero": torch.zeros_like(mean), "ce_mean": mean}
            passes = {"ce_clean": batch.clean.logits[batch.with_next]} | {
                column: self._resume(batch, constant.expand(len(batch.x), -1))
                for column, constant in constants.items()
            }
            for column, logits in passes.items():
                losses = cross_entropy(logits, batch.targets)
                sums[column].index_add_(0, batch.next_sequence, losses.double())
            self._progress(1)
        return {column: values.cpu().numpy() for column, values in sums.items()}
