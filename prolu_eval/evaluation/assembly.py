"""Assembling a stored result from sums: every metric, the run, and the evaluation's setting."""

from prolu_eval.estimates import Estimate
from prolu_eval.evaluation import scale_consistency
from prolu_eval.evaluation.cross_layer import per_layer
from prolu_eval.evaluation.examples import in_context
from prolu_eval.evaluation.features import projection_scalar, weight_arrays, weight_scalars
from prolu_eval.evaluation.legacy_variance import legacy_sums
from prolu_eval.evaluation.measuring import Measured
from prolu_eval.evaluation.preparation import Prepared
from prolu_eval.evaluation.records import Record
from prolu_eval.evaluation.sums import Measurement, Sums
from prolu_eval.evaluation.truth import Found, Truth
from prolu_eval.intervals import estimate
from prolu_eval.metrics import METRICS, measured_by
from prolu_eval.provenance import environment
from prolu_eval.results import (
    EXAMPLE,
    PER_FEATURE,
    PER_LAYER,
    PER_SEQUENCE,
    RESPONSE,
    TRUTH,
    Array,
    Result,
    RunSummary,
)
from prolu_eval.runs import Run, is_range
from prolu_eval.saes import SparseAutoencoder
from prolu_eval.synthetic import SyntheticActivations
from prolu_eval.tokens import warn_of_foreign_ids


class Assembly:
    """Assembles and stores the results of runs that are measured on the first shards.

    Args:
        prepared: the model and tokens with which the runs are measured.
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
        self._reference = prepared.reference(n_shards)
        model = engine.model
        self._truth = Truth(model, self._rows) if isinstance(model, SyntheticActivations) else None
        self._pairs: dict[str, scale_consistency.Sample] = {}

    def warn_of_foreign_ids(self) -> None:
        """Warn if the model predicts the tokens so badly that they may be another tokenizer's."""
        if n_targets := self._reference["n_next"].sum():
            ce_clean = self._reference["ce_clean"].sum() / n_targets
            warn_of_foreign_ids(self._rows, self._engine.model.name, ce_clean)

    def result(self, measured: Measured) -> Result | None:
        """A run's stored result; None while other processes have not measured all their shards.

        Raises:
            ResultsError: if the result cannot be stored.
        """
        record = measured.record
        with record.parts.whole():
            result = record.result(self._n_shards)  # another process may have stored it
            if result is None:
                sums = record.measured(self._shards)
                if sums is None:
                    return None
                result = record.write(self.assembled(record, measured.sae, sums))
        record.parts.remove()
        return result

    def metrics(
        self, run: Run, sae: SparseAutoencoder, measurement: Measurement
    ) -> dict[str, Estimate]:
        """Every metric of a run that was measured on the rows."""
        sampled, _ = self._on_pairs(run, sae)
        found = self._found(sae, measurement)
        return self._estimates(
            run, sae, measurement, self._sums(measurement, sampled, found), found
        )

    def _found(self, sae: SparseAutoencoder, measurement: Measurement) -> Found:
        """What the autoencoder found of a benchmark's features; empty for a language model."""
        if self._truth is None:
            return Found({}, {}, {})
        return self._truth.of(sae, measurement.features)

    def _on_pairs(
        self, run: Run, sae: SparseAutoencoder
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """What is measured on pairs of activations: sums per row, and response curves."""
        pairs = self._sampled(run)
        if pairs is None:
            return {}, {}
        n_rows = self._setting.n_sequences
        sums, curves = scale_consistency.sums_and_curves(sae, pairs, n_rows)
        return {**sums, **legacy_sums(sae, pairs, n_rows)}, curves

    def _sampled(self, run: Run) -> scale_consistency.Sample | None:
        """Pairs of activations at the site that a run reads; None if it reads several sites."""
        read = str(run.hook)
        if is_range(read):
            return None
        if read not in self._pairs:
            self._pairs[read] = scale_consistency.sample(self._engine.model, read, self._rows)
        return self._pairs[read]

    def _sums(self, measurement: Measurement, sampled: Sums, found: Found) -> dict[str, Array]:
        return {**self._reference, **measurement.by_row, **sampled, **found.by_row}

    def _estimates(
        self, run: Run, sae: SparseAutoencoder, measurement: Measurement, sums: Sums, found: Found
    ) -> dict[str, Estimate]:
        scalars = measurement.features.scalars() | weight_scalars(sae) | found.scalars
        if (pairs := self._sampled(run)) is not None:
            scalars["nth_projection"] = projection_scalar(sae, pairs.first, pairs.second)
        return {
            key: scalars[key] if key in scalars else estimate(metric, sums)
            for key, metric in METRICS.items()
            if key in scalars or measured_by(metric, sums)
        }

    def assembled(self, record: Record, sae: SparseAutoencoder, measurement: Measurement) -> Result:
        """A run's result, from sums over all shards."""
        run, features = record.run, measurement.features
        arrays = features.arrays() | weight_arrays(sae)
        sampled, curves = self._on_pairs(run, sae)
        examples = {}
        if measurement.examples is not None:
            tokenizer = self._engine.model.tokenizer
            examples = in_context(measurement.examples, self._rows, tokenizer)
        found = self._found(sae, measurement)
        sums = self._sums(measurement, sampled, found)
        return Result(
            fingerprint=record.fingerprints[self._n_shards],
            checkpoint=record.checkpoint,
            run=summary_of(run, run.hook_out and self._engine.model.canonical_name(run.hook_out)),
            setting=self._setting,
            metrics=self._estimates(run, sae, measurement, sums, found),
            environment=environment(),
            arrays={PER_SEQUENCE + name: values for name, values in sums.items()}
            | {PER_FEATURE + name: values for name, values in arrays.items()}
            | {PER_LAYER + name: values for name, values in per_layer(sums).items()}
            | {RESPONSE + name: values for name, values in curves.items()}
            | {TRUTH + name: values for name, values in found.arrays.items()}
            | {EXAMPLE + name: values for name, values in examples.items()},
        )


def summary_of(run: Run, hook_out: str | None = None) -> RunSummary:
    """The fields that identify a run; ``hook_out`` is the usual name of the output site."""
    return RunSummary(
        name=run.name,
        path=str(run.path),
        format=run.format,
        variant=run.variant,
        label=run.label,
        d_in=run.d_in,
        d_sae=run.d_sae,
        d_out=run.d_out,
        hook=str(run.hook),
        hook_out=hook_out,
        penalty=run.penalty,
        coefficient=run.coefficient,
        learning_rate=run.learning_rate,
        seed=run.seed,
        chance=run.chance,
        options=run.options,
        provenance=run.provenance,
    )
