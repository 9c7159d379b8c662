"""What is asked of results."""

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
# What is asked of results that no language model was spliced into, where y is left as it is.
QUALITY, WITHOUT_A_MODEL = "ce_degradation", "nmse"
Values = Collection[tuple[str, float]]


@dataclass(frozen=True)
class Question:
    """Objectives, and what else is asked about them.

    Attributes:
        x, y, z: two or three metrics.
        splits: by metric, values that part the runs into stretches, each of which is answered too.
        reference: by objective, where hypervolumes reach to.
        at: by objective, the budget at which variants are compared.
        grouping: whether variants are compared with one another, or folders, variant by variant.
        instead: what an objective stands in the place of, in a sentence; empty where it is asked.
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
        """The question that options ask, whose METRIC=VALUE are read already.

        Metrics go by any of their names (:func:`~prolu_eval.metrics.metric_key`).

        Raises:
            UsageError: if an objective is none, a value is no finite number, or a reference or a
                budget is of no objective or given twice.
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
                    raise UsageError(option, f"{value!r} is no number", f"give one for {metric}")
        for metric, value in splits:
            parts.setdefault(metric, []).append(value)
        points: dict[str, dict[str, float]] = {"--reference": {}, "--at": {}}
        for option, values in (("--reference", reference), ("--at", at)):
            for metric, value in values:
                if metric not in keys:
                    raise UsageError(option, f"{metric} is no objective here", "name one that is")
                if metric in points[option]:
                    raise UsageError(option, f"names {metric} twice", "give one value for it")
                points[option][metric] = value
        if points["--at"] and z is not None:
            raise UsageError("--at", "needs two objectives", "leave the third out")
        return cls(x, y, z, parts, points["--reference"], points["--at"], grouping)

    def about(self, group: Group) -> "Question":
        """The question as it is asked of a group.

        CE degradation is undefined of all results on a benchmark with known features; nmse is asked
        for in its stead there.
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
            f"{METRICS[WITHOUT_A_MODEL].title} stands in its place",
        )

    @property
    def keys(self) -> tuple[str, ...]:
        """The objectives."""
        return (self.x, self.y) if self.z is None else (self.x, self.y, self.z)

    def arguments(self) -> list[str]:
        """The options of the command line that ask it again."""
        letters = [part for letter, key in zip("xyz", self.keys, strict=False)
                   for part in (f"-{letter}", key)]  # fmt: skip
        splits = [f"--split={k}={v:g}" for k, values in self.splits.items() for v in values]
        points = [
            f"--{option}={k}={v:g}"
            for option, values in (("reference", self.reference), ("at", self.at))
            for k, v in values.items()
        ]
        return letters + splits + points
