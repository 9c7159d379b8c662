"""What the road to a result needs of whatever measures autoencoders on rows."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from prolu_eval.errors import CheckpointError, EvaluationError
from prolu_eval.evaluation.sums import Measurement, Sums
from prolu_eval.lm import ActivationSource
from prolu_eval.runs import Run
from prolu_eval.saes import SparseAutoencoder
from prolu_eval.tokens import TokenRows


class Measurer(Protocol):
    """Measures autoencoders at one hook point on rows of tokens, or of samples.

    :class:`~prolu_eval.evaluation.engine.Engine` does so within a language model,
    :class:`~prolu_eval.evaluation.known.KnownFeatures` on a benchmark.
    """

    @property
    def model(self) -> ActivationSource:
        """What gives the activations."""
        ...

    @property
    def hook(self) -> str:
        """The hook point."""
        ...

    @property
    def tokens(self) -> TokenRows:
        """The rows to measure on."""
        ...

    @property
    def reference_columns(self) -> tuple[str, ...]:
        """The columns that :meth:`reference` sums."""
        ...

    def check(self, run: Run, sae: SparseAutoencoder) -> None:
        """See that a run's autoencoder suits its hook points.

        Raises:
            CheckpointError: if their widths are others.
            ModelError: if what a transcoder reads cannot be read for what it is put in at.
        """
        ...

    def measure_saes(
        self, saes: Mapping[str, SparseAutoencoder], rows: range | None = None
    ) -> dict[str, Measurement | EvaluationError]:
        """Measure autoencoders, by name, on consecutive rows (all of them by default)."""
        ...

    def sum_of_activations(self, rows: range | None = None) -> tuple[NDArray[np.float64], int]:
        """The sum of the activations over the counted positions of rows, and their number."""
        ...

    def mean_norm(self, rows: range) -> float:
        """The mean L2 norm of the activations over the counted positions of rows."""
        ...

    def reference(self, mean: NDArray[np.float64], rows: range | None = None) -> Sums:
        """Sums that do not depend on autoencoders. [n_rows] each"""
        ...


def check_widths(
    model: ActivationSource, run: Run, sae: SparseAutoencoder, sites: Iterable[tuple[str, str]]
) -> None:
    """See that a run's autoencoder suits hook points: what is read, and what it is read for.

    Raises:
        CheckpointError: if their widths are others.
        ModelError: if what a transcoder reads cannot be read for what it is put in at.
    """
    for read, put_in in sites:
        if sae.transcodes:
            model.source(read, put_in)
        for hook, expected, verb in ((read, sae.d_in, "takes"), (put_in, sae.d_out, "gives")):
            if (width := model.width(hook)) != expected:
                raise CheckpointError(
                    run.path,
                    f"{verb} activations of width {expected}, but {hook} of {model.name} has "
                    f"{width}",
                    "name the model and the hook that it was trained on",
                )
