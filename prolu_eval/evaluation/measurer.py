"""The interface of engines, which measure autoencoders on rows of tokens or samples."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from prolu_eval.errors import CheckpointError, EvaluationError
from prolu_eval.evaluation.sums import Measurement, Sums
from prolu_eval.lm import ActivationSource
from prolu_eval.runs import Run, is_range
from prolu_eval.saes import OF_SEVERAL_SITES, SparseAutoencoder
from prolu_eval.tokens import TokenRows


class Measurer(Protocol):
    """Measures autoencoders at one hook point on rows of tokens, or of samples.

    :class:`~prolu_eval.evaluation.engine.Engine` does so within a language model,
    :class:`~prolu_eval.evaluation.known.KnownFeatures` on a benchmark.
    """

    @property
    def model(self) -> ActivationSource:
        """The source of the activations."""
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
        """Check that a run's autoencoder suits its hook points.

        Raises:
            CheckpointError: if their widths differ.
            ModelError: if a transcoder's input site cannot be read to replace its output site.
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

    def mean_norms(self, rows: range) -> tuple[float, ...]:
        """The mean L2 norm of the activations at each hook point, over rows' counted positions."""
        ...

    def reference(self, mean: NDArray[np.float64], rows: range | None = None) -> Sums:
        """Sums that do not depend on autoencoders. [n_rows] each"""
        ...


def check_widths(
    model: ActivationSource,
    run: Run,
    sae: SparseAutoencoder,
    read: Sequence[str],
    put_in: Sequence[str],
) -> None:
    """Check that a run's autoencoder suits its input sites ``read`` and output sites ``put_in``.

    Raises:
        CheckpointError: if the numbers of hook points or their widths differ.
        ModelError: if a transcoder's input site cannot be read to replace its output site.
    """
    of_several = sae.variant in OF_SEVERAL_SITES
    if not len(read) == len(put_in) == sae.n_sites or of_several != is_range(str(run.hook)):
        named = str(run.hook) if run.d_out is None else f"{run.hook} and {run.hook_out}"
        raise CheckpointError(
            run.path,
            f"reads {sae.n_sites} hook point{'s' * (sae.n_sites > 1)}, which {named} is not",
            "name them with --hook and --hook-out, several as blocks.0-11.hook_mlp_out",
        )
    for source, site in zip(read, put_in, strict=True):
        if sae.transcodes:
            model.source(source, site)
        for hook, expected, verb in ((source, sae.d_in, "takes"), (site, sae.d_out, "gives")):
            if (width := model.width(hook)) != expected:
                raise CheckpointError(
                    run.path,
                    f"{verb} activations of width {expected}, but {hook} of {model.name} has "
                    f"{width}",
                    "name the model and the hook that it was trained on",
                )
