"""Samples of a benchmark, in rows like a language model's tokens.

A row of samples depends only on the benchmark's seed and the number of the row's first sample, so
that it is the same whichever other rows are drawn, in whatever order, and on any machine.
"""

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from prolu_eval.choices import Split
from prolu_eval.devices import default_device
from prolu_eval.errors import ModelError
from prolu_eval.synthetic.benchmark import HOOK, Benchmark, named_benchmark
from prolu_eval.synthetic.dictionary import SAMPLE_STREAM, Dictionary, dictionary
from prolu_eval.tokens import TokenRows

# The number of the first sample of each split.
_FIRST: dict[Split, int] = {"train": 0, "heldout": 1 << 40, "all": 0}


class Samples(NamedTuple):
    """Activations [n, d_in] and the features' true magnitudes in them [n, n_features], float32."""

    x: Tensor
    magnitudes: Tensor


class SyntheticActivations:
    """A benchmark that replaces a language model, with activations at its one hook point.

    Attributes:
        name: ``synthetic:`` and the name of a preset or a folder.
        benchmark: the description.
        fingerprint: a digest that differs between benchmarks with different samples.
        device, dtype: the device and the precision of samples.
    """

    tokenizer = None

    def __init__(
        self,
        name: str,
        benchmark: Benchmark,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.name, self.benchmark = name, benchmark
        self.fingerprint = benchmark.fingerprint
        self.device = torch.device(device or default_device())
        self.dtype = dtype

    @classmethod
    def load(
        cls, name: str, *, device: str | None = None, dtype: torch.dtype = torch.float32
    ) -> "SyntheticActivations":
        """The benchmark with a name.

        Raises:
            ModelError: if there is no benchmark of that name.
        """
        return cls(name, named_benchmark(name), device, dtype)

    @cached_property
    def dictionary(self) -> Dictionary:
        """The benchmark's features."""
        return dictionary(self.benchmark)

    def width(self, hook: str) -> int:
        """The width of the activations."""
        return self.benchmark.d_in

    def source(self, hook: str, into: str) -> None:
        """Refuse transcoders, because a benchmark has only one site.

        Raises:
            ModelError: always.
        """
        raise ModelError(self.name, "has no second site for a transcoder", "name a language model")

    def canonical_name(self, hook: str) -> str:
        """The name of the benchmark's one hook point."""
        return HOOK

    def rows(self, split: Split, n_samples: int, length: int) -> TokenRows:
        """The numbers of ``n_samples`` samples, in rows of ``length`` that serve as sequences.

        There is at least one row. The training split and the held-out split share no samples.
        """
        n_rows = max(1, n_samples // length)
        ids = _FIRST[split] + torch.arange(n_rows * length).view(n_rows, length)
        return TokenRows(ids, torch.ones_like(ids, dtype=torch.bool), self.name)

    def activations(self, tokens: Tensor, hook: str) -> Tensor:
        """The samples of rows of numbers, as :meth:`rows` returns them. [B, T] -> [B, T, d_in]"""
        x, _ = self._drawn(tokens)
        return self._placed(x).to(self.dtype).view(*tokens.shape, -1)

    def samples(self, tokens: Tensor) -> Samples:
        """The samples of rows with their true magnitudes, flattened. [B, T] -> [B * T, ...]"""
        x, magnitudes = self._drawn(tokens)
        return Samples(self._placed(x), self._placed(magnitudes))

    def _placed(self, array: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _drawn(self, tokens: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        parts = [self._row(first, tokens.shape[1]) for first in tokens[:, 0].tolist()]
        magnitudes, noise = (np.concatenate(part) for part in zip(*parts, strict=True))
        known = self.dictionary
        x = magnitudes @ known.directions.astype(np.float32)
        x += known.bias.astype(np.float32)
        return x + np.float32(self.benchmark.noise) * noise, magnitudes

    def _row(self, first: int, length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Magnitudes [length, n_features] and noise of unit variance [length, d_in] of a row."""
        spec = self.benchmark
        rng = np.random.default_rng([spec.version, spec.seed, SAMPLE_STREAM, first])
        active = self._active(rng, length)
        magnitudes = np.zeros(active.shape, np.float32)
        magnitudes[active] = _magnitudes(spec, rng, int(active.sum()))
        return magnitudes, rng.standard_normal((length, spec.d_in), np.float32)

    def _active(self, rng: np.random.Generator, length: int) -> NDArray[np.bool_]:
        """Whether each feature fires in each sample of a row. [length, n_features]"""
        spec, known = self.benchmark, self.dictionary
        shape = (length, spec.n_features)
        if spec.groups:
            # A feature fires where a normal variable is large; a part of it is shared by the group.
            own = rng.standard_normal(shape, np.float32)
            shared = rng.standard_normal((length, spec.groups), np.float32)[:, known.group]
            weight = np.where(known.group >= 0, spec.correlation, 0)
            latent = np.sqrt(1 - weight) * own + np.sqrt(weight) * shared
            active = np.asarray(latent > -ndtri(known.rate))
        else:
            active = np.asarray(rng.random(shape, np.float32) < known.rate)
        children = known.parent >= 0
        active[:, children] &= active[:, known.parent[children]]
        return active


def _magnitudes(spec: Benchmark, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Magnitudes of mean 1. [n]"""
    if spec.magnitude == "half_normal":
        return np.asarray(np.abs(rng.standard_normal(n)) * np.sqrt(np.pi / 2))
    if spec.magnitude == "log_normal":
        return np.exp(spec.spread * rng.standard_normal(n) - spec.spread**2 / 2)
    half = np.log(spec.spread) / 2
    return np.asarray(np.exp(rng.uniform(-half, half, n)) * half / np.sinh(half))
