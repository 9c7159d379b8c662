"""Races, in which runs that others surely beat on the first tokens are measured on those only."""

from collections.abc import Sequence
from dataclasses import dataclass

from prolu_eval.analysis.questions import QUALITY, WITHOUT_A_MODEL
from prolu_eval.analysis.racing import beaten
from prolu_eval.estimates import CONFIDENCE
from prolu_eval.evaluation.parts import looks
from prolu_eval.evaluation.records import Record
from prolu_eval.evaluation.rounds import OnShards
from prolu_eval.evaluation.sums import Sums
from prolu_eval.results import Dropped, Result


@dataclass(frozen=True)
class Race:
    """A race of runs under the same conditions.

    Attributes:
        prepared: the model and tokens with which the runs are measured.
        keys: the objectives.
        n_runs: the number of runs at the start.
    """

    prepared: OnShards
    keys: tuple[str, ...]
    n_runs: int

    def lacking(self, records: Sequence[Record], n_shards: int) -> list[Record]:
        """The records whose first shards are not all measured yet."""
        cut = self.prepared.shards[:n_shards]
        return [record for record in records if record.sums(cut) is None]

    def beaten(self, records: Sequence[Record], n_shards: int) -> dict[str, str]:
        """Names of runs that are surely beaten on the first shards, each with a run that beats it.

        Runs that were measured on all tokens before are never dropped, because they cost nothing
        more. Chance baselines take no part in a race: there are few of them, and other results are
        compared with them, which name the runs that they beat.
        """
        prepared, whole = self.prepared, len(self.prepared.shards)
        cut = prepared.shards[:n_shards]
        given = prepared.reference(whole)
        first = {name: values[: cut[-1].stop] for name, values in given.items()}
        measured = [
            (record, {**sums, **first})
            for record in records
            if record.run.chance is None and (sums := record.sums(cut)) is not None
        ]
        if not measured:
            return {}
        runs = [record.run for record, _ in measured]
        found = beaten(
            self._keys(first),
            [own for _, own in measured],
            self.n_runs,
            len(looks(prepared.shards)),
        )
        done = {i for i, (record, _) in enumerate(measured) if record.result(whole) is not None}
        return {runs[i].name: runs[j].name for i, j in found.items() if i not in done}

    def dropped(self, result: Result, winner: str) -> Dropped:
        """The reason why a run's result is not on all tokens."""
        whole = self.prepared.settings[len(self.prepared.shards)]
        evaluation = result.model_copy(update={"setting": whole}).comparison_key()
        return Dropped(
            evaluation=evaluation,
            objectives=self.keys,
            beaten_by=winner,
            confidence=CONFIDENCE,
        )

    def _keys(self, sums: Sums) -> tuple[str, ...]:
        """The objectives; without CE on a benchmark, which has no next tokens."""
        if sums["n_next"].any() or WITHOUT_A_MODEL in self.keys:
            return self.keys
        return tuple(WITHOUT_A_MODEL if key == QUALITY else key for key in self.keys)
