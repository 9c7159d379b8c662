"""The JSON document of a comparison, which ``compare --json`` prints."""

from collections.abc import Sequence
from typing import Literal, Self

from prolu_eval.analysis.savings import Status
from prolu_eval.comparison.verdicts import Comparison, Judgement, Verdict
from prolu_eval.estimates import Estimate
from prolu_eval.json_text import Document

SCHEMA_VERSION = 1
# 1: first version (2026-11)


class JudgementDocument(Document):
    """One judgement; ``ci95`` is the interval of the difference."""

    run: str
    metric: str | None
    verdict: Verdict
    baseline: float | None
    current: float | None
    difference: float | None
    tolerance: str | None
    limit: float | None
    detectable: float | None
    p_value: float | None
    reason: str | None
    remedy: str | None
    ci95: tuple[float | None, float | None]

    @classmethod
    def of(cls, row: Judgement) -> Self:
        """The document of a row."""
        known = row.difference or Estimate(value=None)
        return cls.filled(row, difference=known.value, ci95=known.ci95)


class FolderSavingDocument(Document):
    """What one folder saves compared with another, for one variant or (``variant`` null) all."""

    first: str
    second: str
    variant: str | None
    n_variants: int
    metric: str
    at_equal: str
    amount: Estimate
    status: Status


class FoldersDocument(Document):
    """Which of two folders is better, for one group of comparable runs."""

    group: str
    statement: str
    savings: list[FolderSavingDocument]


class ComparisonDocument(Document):
    """Everything that a comparison found."""

    schema_version: int = SCHEMA_VERSION
    verdict: Literal["pass", "regression", "incomparable"]
    runs: list[JudgementDocument]
    frontiers: list[JudgementDocument]
    new_runs: Sequence[str]
    missing_runs: Sequence[str]
    unevaluated_runs: Sequence[str]
    too_few_tokens: list[str]
    matched_by: str
    method: str
    update: str | None
    folders: list[FoldersDocument]


def comparison_document(found: Comparison) -> ComparisonDocument:
    """The document of a comparison."""
    return ComparisonDocument.filled(
        found,
        runs=[JudgementDocument.of(row) for row in found.runs],
        frontiers=[JudgementDocument.of(row) for row in found.frontiers],
        folders=[
            FoldersDocument(
                group=answer.title,
                statement=answer.sentence,
                savings=[FolderSavingDocument.filled(part, part.saving) for part in answer.folders],
            )
            for answer in found.folders
        ],
    )
