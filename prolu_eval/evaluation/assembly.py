"""From sums to a stored result: what was measured, on what, and every metric of it."""

import importlib.metadata
import platform
from typing import Any

import torch

from prolu_eval import __version__
from prolu_eval.estimates import Estimate
from prolu_eval.evaluation import scale_consistency
from prolu_eval.evaluation.examples import in_context
from prolu_eval.evaluation.features import weight_arrays, weight_scalars
from prolu_eval.evaluation.measuring import Measured
from prolu_eval.evaluation.preparation import Prepared
from prolu_eval.evaluation.reference import reference
from prolu_eval.evaluation.sums import Measurement, Sums
from prolu_eval.intervals import estimate
from prolu_eval.metrics import METRICS
from prolu_eval.results import (
    EXAMPLE,
    PER_FEATURE,
    PER_SEQUENCE,
    RESPONSE,
    Array,
    Result,
    RunSummary,
)
from prolu_eval.runs import Run
from prolu_eval.saes import SparseAutoencoder
from prolu_eval.tokens import warn_of_foreign_ids


class Assembly:
    """Puts together and stores the results of runs that are measured on the first shards.

    Args:
        prepared: what they are measured with.
        n_shards: the number of shards.

    Raises:
        EvaluationError: if the model's activations are not finite.
    """

    def __init__(self, prepared: Prepared, n_shards: int) -> None:
        engine = prepared.engine
        self._engine, self._rows = engine, engine.tokens.first(prepared.shards[n_shards - 1].stop)
        self._conditions, self._n_shards = prepared.conditions, n_shards
        self._setting = prepared.settings[n_shards]
        self._shards = prepared.shards[:n_shards]
        self._reference = reference(engine, self._setting, self._shards)
        self._pairs: dict[str, scale_consistency.Sample] = {}

    def warn_of_foreign_ids(self) -> None:
        """Warn if the model predicts its tokens no better than if they were another's."""
        if n_targets := self._reference["n_next"].sum():
            ce_clean = self._reference["ce_clean"].sum() / n_targets
            warn_of_foreign_ids(self._rows, self._engine.model.name, ce_clean)

    def result(self, measured: Measured) -> Result | None:
        """A run's stored result; None while others have not measured all of their shares of it.

        Raises:
            ResultsError: if it cannot be stored.
        """
        record = measured.record
        with record.parts.whole():
            result = record.result(self._n_shards)  # another process may have been here first
            if result is None:
                sums = record.measured(self._shards)
                if sums is None:
                    return None
                result = record.write(self._assembled(measured, sums))
        record.parts.remove()
        return result

    def metrics(
        self, run: Run, sae: SparseAutoencoder, measurement: Measurement
    ) -> dict[str, Estimate]:
        """Every metric of a run that was measured on the rows."""
        violations, _ = self._consistency(run, sae)
        return self._estimates(sae, measurement, self._sums(measurement, violations))

    def _consistency(
        self, run: Run, sae: SparseAutoencoder
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        read = str(run.hook)
        if read not in self._pairs:
            self._pairs[read] = scale_consistency.sample(self._engine.model, read, self._rows)
        return scale_consistency.sums_and_curves(sae, self._pairs[read], self._setting.n_sequences)

    def _sums(self, measurement: Measurement, violations: Sums) -> dict[str, Array]:
        return {**self._reference, **measurement.by_row, **violations}

    def _estimates(
        self, sae: SparseAutoencoder, measurement: Measurement, sums: Sums
    ) -> dict[str, Estimate]:
        scalars = measurement.features.scalars() | weight_scalars(sae)
        return {
            key: scalars[key] if key in scalars else estimate(metric, sums)
            for key, metric in METRICS.items()
            if key in scalars or metric.numerator.keys() <= sums.keys()
        }

    def _assembled(self, measured: Measured, measurement: Measurement) -> Result:
        record, sae = measured.record, measured.sae
        run, features = record.run, measurement.features
        arrays = features.arrays() | weight_arrays(sae)
        violations, curves = self._consistency(run, sae)
        examples = {}
        if measurement.examples is not None:
            tokenizer = self._engine.model.tokenizer
            examples = in_context(measurement.examples, self._rows, tokenizer)
        sums = self._sums(measurement, violations)
        return Result(
            fingerprint=record.fingerprints[self._n_shards],
            checkpoint=record.checkpoint,
            run=RunSummary(
                name=run.name,
                path=str(run.path),
                format=run.format,
                variant=run.variant,
                label=run.label,
                d_in=run.d_in,
                d_sae=run.d_sae,
                d_out=run.d_out,
                hook=str(run.hook),
                hook_out=run.hook_out and self._engine.model.usual_name(run.hook_out),
                penalty=run.penalty,
                coefficient=run.coefficient,
                learning_rate=run.learning_rate,
                seed=run.seed,
                options=run.options,
                provenance=run.provenance,
            ),
            setting=self._setting,
            metrics=self._estimates(sae, measurement, sums),
            environment=environment(),
            arrays={PER_SEQUENCE + name: values for name, values in sums.items()}
            | {PER_FEATURE + name: values for name, values in arrays.items()}
            | {RESPONSE + name: values for name, values in curves.items()}
            | {EXAMPLE + name: values for name, values in examples.items()},
        )


def environment() -> dict[str, Any]:
    """Versions and hardware that a measurement ran on."""
    packages = ("torch", "transformer-lens", "transformers")
    return {
        "prolu-eval": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **{name: importlib.metadata.version(name) for name in packages},
    }
