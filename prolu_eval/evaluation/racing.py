"""Runs that are measured on the first tokens only, since they are surely beaten there already."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prolu_eval.analysis.groups import repeats
from prolu_eval.analysis.racing import Racing
from prolu_eval.estimates import CONFIDENCE
from prolu_eval.evaluation.assembly import summary_of
from prolu_eval.evaluation.parts import looks
from prolu_eval.evaluation.preparation import Prepared
from prolu_eval.evaluation.records import Record
from prolu_eval.evaluation.reference import reference
from prolu_eval.evaluation.sums import Sums
from prolu_eval.hub import is_hub_name, origin
from prolu_eval.json_text import canonical
from prolu_eval.results import Dropped, Result
from prolu_eval.runs import Run

# What is asked of runs that no language model is spliced into, in the place of the second.
_QUALITY, _WITHOUT_A_MODEL = "ce_degradation", "nmse"
# Runs that a folder must hold to be compared with others as a folder.
_SEVERAL = 2


@dataclass(frozen=True)
class Race:
    """A race of runs under the same conditions.

    Attributes:
        prepared: what they are measured with.
        keys: the objectives.
        variants: what each run is compared within, by its name.
    """

    prepared: Prepared
    keys: tuple[str, ...]
    variants: Mapping[str, str]

    def lacking(self, records: Sequence[Record], n_shards: int) -> list[Record]:
        """The records of which the first shards are not measured yet."""
        cut = self.prepared.shards[:n_shards]
        return [record for record in records if record.sums(cut) is None]

    def beaten(self, records: Sequence[Record], n_shards: int) -> dict[str, str]:
        """Names of runs that need no more tokens than the first shards, each with one beating it.

        Runs that were measured on all tokens before cost nothing more, and stay.
        """
        prepared, whole = self.prepared, len(self.prepared.shards)
        cut = prepared.shards[:n_shards]
        given = reference(prepared.engine, prepared.settings[whole], prepared.shards)
        first = {name: values[: cut[-1].stop] for name, values in given.items()}
        measured = [
            (record, {**sums, **first})
            for record in records
            if (sums := record.sums(cut)) is not None
        ]
        if not measured:
            return {}
        runs = [record.run for record, _ in measured]
        racing = Racing(
            self._keys(first),
            [self.variants[run.name] for run in runs],
            _configurations(runs),
            len(looks(prepared.shards)),
        )
        found = racing.beaten([sums for _, sums in measured])
        done = {i for i, (record, _) in enumerate(measured) if record.result(whole) is not None}
        return {runs[i].name: runs[j].name for i, j in found.items() if i not in done}

    def dropped(self, result: Result, winner: str) -> Dropped:
        """Why a run has no more tokens than its result is on."""
        whole = self.prepared.settings[len(self.prepared.shards)]
        evaluation = result.model_copy(update={"setting": whole}).comparison_key()
        return Dropped(
            evaluation=evaluation,
            objectives=self.keys,
            beaten_by=winner,
            confidence=CONFIDENCE,
        )

    def _keys(self, sums: Sums) -> tuple[str, ...]:
        """The objectives; a benchmark with known features has no next tokens, and so no CE."""
        if sums["n_next"].any() or _WITHOUT_A_MODEL in self.keys:
            return self.keys
        return tuple(_WITHOUT_A_MODEL if key == _QUALITY else key for key in self.keys)


def variants_in(runs: Sequence[Run], roots: Sequence[str]) -> dict[str, str]:
    """What runs are compared within, by name: their variants, of several folders each one's own.

    Single runs named one by one are of no folder; names on the hub are always apart.
    """
    if len(roots) < _SEVERAL:
        return {run.name: run.label for run in runs}
    folders = {str(Path(root).resolve()) for root in roots if not is_hub_name(root)}
    origins = {origin(root) for root in roots if is_hub_name(root)}
    homes = {run.name: _home(run, folders, origins) for run in runs}
    sizes = Counter(homes.values())
    apart = all(sizes[folder] >= _SEVERAL for folder in folders)
    return {
        run.name: f"{home}: {run.label}" if apart or home in origins else run.label
        for run, home in ((run, homes[run.name]) for run in runs)
    }


def _home(run: Run, folders: set[str], origins: set[str]) -> str:
    for name in origins:
        if run.name.startswith(f"{name}/"):
            return name
    place = run.path.resolve()
    return next((str(home) for home in (place, *place.parents) if str(home) in folders), "")


def _configurations(runs: Sequence[Run]) -> Sequence[NDArray[np.int64]]:
    summaries = [summary_of(run) for run in runs]
    keys = [
        canonical(summary.configuration) if summary.is_repeatable else i
        for i, summary in enumerate(summaries)
    ]
    return repeats(keys, [summary.seed for summary in summaries])
