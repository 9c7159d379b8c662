"""The questions that can be asked about results."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Literal

from prolu_eval.analysis.groups import Group
from prolu_eval.analysis.pareto import maximised
from prolu_eval.errors import UsageError
from prolu_eval.metrics import METRICS, metric_key

Grouping = Literal["variant", "folder"]
# The default y, and the metric that replaces it for results measured without a language model.
QUALITY, WITHOUT_A_MODEL = "ce_degradation", "nmse"
Values = Collection[tuple[str, float]]


@dataclass(frozen=True)
class Question:
    """The objectives, and what else is asked about them.

    Attributes:
        x, y, z: two or three metrics, the objectives.
        splits: by metric, values that divide the runs into parts, which are answered separately as
            well.
        reference: by objective, the reference point of hypervolumes.
        at: by objective, the budget at which variants are compared.
        grouping: ``variant`` to compare variants with one another, ``folder`` to compare folders,
            variant by variant.
        instead: a sentence that says which objective was replaced and why; empty if none was.
    """

    x: str = "l0"
    y: str = QUALITY
    z: str | None = None
    splits: Mapping[str, Sequence[float]] = field(default_factory=dict)
    reference: Mapping[str, float] = field(default_factory=dict)
    at: Mapping[str, float] = field(default_factory=dict)
    grouping: Grouping = "variant"
    instead: str = ""

    @classmethod
    def asked(
        cls,
        x: str,
        y: str,
        z: str | None = None,
        *,
        splits: Values = (),
        reference: Values = (),
        at: Values = (),
        grouping: Grouping = "variant",
    ) -> "Question":
        """The question that command-line options ask, with METRIC=VALUE already parsed into pairs.

        Metrics can have any of their names (:func:`~prolu_eval.metrics.metric_key`).

        Raises:
            UsageError: if an objective is not a metric with a better direction, if a value is not a
                finite number, or if a reference or a budget names a metric that is not an objective
                or names one twice.
        """
        x, y, z = metric_key(x), metric_key(y), None if z is None else metric_key(z)
        keys = (x, y) if z is None else (x, y, z)
        maximised(*keys)
        splits, reference, at = (
            [(metric_key(metric), value) for metric, value in values]
            for values in (splits, reference, at)
        )
        if len(set(keys)) < len(keys):
            raise UsageError(", ".join(keys), "name a metric twice", "name two or three metrics")
        parts: dict[str, list[float]] = {}
        for option, values in (("--split", splits), ("--reference", reference), ("--at", at)):
            for metric, value in values:
                if not (isinstance(value, Real) and math.isfinite(value)):
                    reason = f"{value!r} is not a finite number"
                    raise UsageError(option, reason, f"give a number for {metric}")
        for metric, value in splits:
            parts.setdefault(metric, []).append(value)
        points: dict[str, dict[str, float]] = {"--reference": {}, "--at": {}}
        for option, values in (("--reference", reference), ("--at", at)):
            for metric, value in values:
                if metric not in keys:
                    remedy = f"name one of {', '.join(keys)}"
                    raise UsageError(option, f"{metric} is not an objective here", remedy)
                if metric in points[option]:
                    raise UsageError(option, f"names {metric} twice", "give one value for it")
                points[option][metric] = value
        if points["--at"] and z is not None:
            raise UsageError("--at", "needs two objectives", "leave the third out")
        return cls(x, y, z, parts, points["--reference"], points["--at"], grouping)

    def about(self, group: Group) -> "Question":
        """The question for a particular group.

        Results on a benchmark with known features have no CE degradation; for such a group the
        question asks for the normalised MSE in its place.
        """
        unknown = self.y not in group.table or group.table[self.y].isna().all()
        if self.y != QUALITY or not unknown or WITHOUT_A_MODEL in self.keys:
            return self
        reference, at = (
            {key: value for key, value in part.items() if key != QUALITY}
            for part in (self.reference, self.at)
        )
        return replace(
            self,
            y=WITHOUT_A_MODEL,
            reference=reference,
            at=at,
            instead=f"{METRICS[QUALITY].title} is undefined without a language model; "
            f"{METRICS[WITHOUT_A_MODEL].title} replaces it",
        )

    @property
    def keys(self) -> tuple[str, ...]:
        """The objectives."""
        return (self.x, self.y) if self.z is None else (self.x, self.y, self.z)

    def arguments(self) -> list[str]:
        """The command-line options that ask the same question."""
        letters = [part for letter, key in zip("xyz", self.keys, strict=False)
                   for part in (f"-{letter}", key)]  # fmt: skip
        splits = [f"--split={k}={v:g}" for k, values in self.splits.items() for v in values]
        points = [
            f"--{option}={k}={v:g}"
            for option, values in (("reference", self.reference), ("at", self.at))
            for k, v in values.items()
        ]
        return letters + splits + points
