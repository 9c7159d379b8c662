"""An evaluation over workers gives the same results as one process, even if workers end."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prolu_eval.cluster import parcels, sight
from prolu_eval.cluster.pool import Answered, Event, Gone, Joined, LocalPool, Worker
from prolu_eval.errors import EvaluationError, UsageError
from prolu_eval.evaluation import evaluate, runner, worker
from prolu_eval.evaluation.distributed import SERVICE, config_of
from prolu_eval.evaluation.options import EvaluationOptions
from prolu_eval.evaluation.parts import Parts
from prolu_eval.evaluation.reference import Pieces
from prolu_eval.evaluation.schedule import Schedule
from prolu_eval.results import Result
from tests.helpers.cluster_runs import (
    assert_same,
    local,
    options_of,
    statuses,
    undisturbed,
    write_runs,
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]) -> Path:
    """Runs of four formats at three hooks of two models."""
    folder = tmp_path_factory.mktemp("work")
    return write_runs(folder, [tiny_model("llama"), tiny_model("gpt2")], 12)


@pytest.fixture(scope="module")
def expected(work: Path) -> dict[str, Result]:
    found = undisturbed(work)
    assert len(found) == 12
    return found


class Dying(LocalPool):
    """Workers of which one ends now and then and loses its messages; another one starts."""

    def __init__(self, *arguments: Any, seed: int, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.chance, self.ended = random.Random(seed), 0

    def events(self, timeout: float) -> list[Event]:
        if self._asked and self.chance.random() < 0.2:
            victim = self._asked[0][0]
            self._asked = [asked for asked in self._asked if asked[0] != victim]
            new = Worker(1000 + self.ended, victim.node, "cpu")
            self._services[new.id] = self._services.pop(victim.id)
            self._services[new.id] = type(self)._fresh(self)
            self.ended += 1
            return [Gone(victim, "killed"), Joined(new)]
        return super().events(timeout)

    def _fresh(self) -> Any:
        from prolu_eval.cluster.pool import service_of

        return service_of(self.service, self.config, lambda value: value)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, str]]:
    """The parts that are stored."""
    stored: list[tuple[Path, str]] = []
    write = Parts.write

    def noting(self: Parts, name: str, arrays: Any) -> None:
        write(self, name, arrays)
        stored.append((self._folder, name))

    monkeypatch.setattr(Parts, "write", noting)
    return stored


def test_workers_give_what_one_process_gives(
    work: Path, expected: dict[str, Result], tmp_path: Path, over: Any, written: Any
) -> None:
    over(local)
    options = options_of(work, tmp_path / "results", on="ray")
    assert statuses(evaluate(work / "runs", options)) == {"ok"}
    assert_same(tmp_path / "results", expected)
    assert len(written) == len(set(written)), "nothing is stored twice"
    assert statuses(evaluate(work / "runs", options)) == {"cached"}


def test_workers_that_end_lose_nothing(
    work: Path, expected: dict[str, Result], tmp_path: Path, over: Any, written: Any
) -> None:
    pools: list[Dying] = []

    def dying(options: EvaluationOptions) -> LocalPool:
        pools.append(Dying(SERVICE, config_of(options), ["a", "b"], seed=len(pools)))
        return pools[-1]

    over(dying)
    assert statuses(evaluate(work / "runs", options_of(work, tmp_path / "results", on="ray"))) == {
        "ok"
    }
    assert pools[0].ended > 5
    assert_same(tmp_path / "results", expected)
    assert len(written) == len(set(written)), "nothing is stored twice"


def test_nodes_that_see_nothing_are_sent_it(
    work: Path,
    expected: dict[str, Result],
    tmp_path: Path,
    over: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files of runs and models are sent once; tokens, only to the first node that reads them."""
    put: list[bytes] = []

    class Noting(LocalPool):
        def put(self, value: Any) -> Any:
            if isinstance(value, bytes):
                put.append(value)
            return value

    arrived = str(tmp_path / "cache" / "arrived")
    sees, finds = parcels.has_content, sight.find_here

    def has_content(path: Path, digest: str) -> bool:
        return str(path).startswith(arrived) and sees(path, digest)

    def find_here(wanted: Any, local_paths: Any, arrivals: Any) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(sight, "content_of", lambda *_: None)
            finds(wanted, local_paths, arrivals)

    monkeypatch.setattr(worker, "has_content", has_content)
    monkeypatch.setattr(worker, "find_here", find_here)
    over(lambda options: Noting(SERVICE, config_of(options), ["a", "b"]))
    evaluate(work / "runs", options_of(work, tmp_path / "results", on="ray"))
    assert_same(tmp_path / "results", expected)
    sent = sum(map(len, put))
    there = [*(work / "runs").rglob("*"), work / "ids.npy"]
    models = {Path(result.setting.model) for result in expected.values()}
    there += [file for model in models for file in model.iterdir()]
    assert sent == sum(file.stat().st_size for file in there if file.is_file())


@pytest.mark.parametrize("lacking", ["one checkpoint", "the folder of all runs"])
def test_a_node_is_sent_what_it_lacks(
    lacking: str,
    work: Path,
    expected: dict[str, Result],
    tmp_path: Path,
    over: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One checkpoint of a folder, not others of it; without the folder, all, unasked but once."""
    runs = work / "runs"
    missing = runs / "00-native" if lacking == "one checkpoint" else runs
    arrived = str(tmp_path / "cache" / "arrived")
    at, unseen, sent = [""], [0], set[str]()
    sees, there = parcels.has_content, Path.exists

    class Noting(LocalPool):
        def submit(self, worker: Worker, message: Any) -> int:
            parcel = [file for p in message.get("parcels", ()) for file, _ in p["files"]]
            assert worker.node == "b" or not parcel
            sent.update(parcel)
            return super().submit(worker, message)

        def events(self, timeout: float) -> list[Event]:
            at[0] = self._asked[0][0].node if self._asked else ""
            found = super().events(timeout)
            at[0] = ""
            unseen[0] += sum(isinstance(e, Answered) and sight.UNSEEN in e.answer for e in found)
            return found

    def is_missing(path: Path) -> bool:
        return at[0] == "b" and missing in (path, *path.parents)

    monkeypatch.setattr(worker, "has_content", lambda p, d: not is_missing(p) and sees(p, d))
    monkeypatch.setattr(Path, "exists", lambda p: not is_missing(p) and there(p))
    over(lambda options: Noting(SERVICE, config_of(options), ["a", "b"]))
    evaluate(runs, options_of(work, tmp_path / "results", on="ray"))
    assert_same(tmp_path / "results", expected)
    assert 1 <= unseen[0] <= 2, "at most once for each message that is on its way"
    files = {str(f) for f in missing.rglob("*") if f.is_file() and arrived not in str(f)}
    assert sent <= files
    if lacking == "one checkpoint":
        assert sent == files
    else:
        assert len({Path(file).parent for file in sent}) > 1


class Watched(LocalPool):
    """Workers of an evaluation that fails if nothing happens for long."""

    silent = 0

    def events(self, timeout: float) -> list[Event]:
        found = super().events(timeout)
        self.silent = 0 if found else self.silent + 1
        assert self.silent < 100, "the evaluation waits for something that nobody does"
        return found


@pytest.mark.parametrize("kind", ["mean", "ablations"])
@pytest.mark.parametrize("times", [1, 9])
def test_a_damaged_piece_of_the_ablations_is_measured_again(
    kind: str,
    times: int,
    work: Path,
    expected: dict[str, Result],
    tmp_path: Path,
    over: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk that damages it again and again is told of."""
    damaged: list[int] = []
    keep = Pieces.keep

    def keeping(self: Pieces, what: Any, shard: int, piece: Any) -> None:
        keep(self, what, shard, piece)
        if what == kind and shard == 0 and len(damaged) < times:
            (path,) = self.path.with_suffix(".parts").glob(f"{kind}-000000000-*.safetensors")
            damaged.append(path.write_bytes(b"damaged"))

    monkeypatch.setattr(Pieces, "keep", keeping)
    over(lambda options: Watched(SERVICE, config_of(options), ["a", "b"]))
    one = work / "runs" / "00-native"
    (outcome,) = evaluate(one, options_of(work, tmp_path / "results", on="ray"))
    if times == 1:
        assert damaged == [len(b"damaged")]
        assert outcome.status == "ok"
        assert_same(tmp_path / "results", {outcome.name: expected[outcome.name]})
    else:
        assert outcome.status == "failed"
        assert "cannot be assembled, as pieces of it are damaged on the disk" in str(outcome.error)


def test_pieces_that_another_process_stores_meanwhile_are_used(
    work: Path,
    expected: dict[str, Result],
    tmp_path: Path,
    over: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored: dict[str, Any] = {}
    keep, add_chores = Pieces.keep, Schedule.add_chores

    def keeping(self: Pieces, kind: Any, shard: int, piece: Any) -> None:
        stored[f"{kind}-{shard}"] = self, kind, shard, piece
        keep(self, kind, shard, piece)

    one = work / "runs" / "00-native"
    over(lambda options: Watched(SERVICE, config_of(options), ["a", "b"]))
    with monkeypatch.context() as patched:
        patched.setattr(Pieces, "keep", keeping)
        evaluate(one, options_of(work, tmp_path / "first", on="ray"))
    shutil.rmtree(tmp_path / "cache")

    def adding(self: Schedule, key: int, kind: Any, shards: Any) -> None:
        add_chores(self, key, kind, shards)
        for there in stored.values():
            if there[1] == kind:
                keep(*there)

    monkeypatch.setattr(Schedule, "add_chores", adding)
    (outcome,) = evaluate(one, options_of(work, tmp_path / "results", on="ray"))
    assert outcome.status == "ok"
    assert_same(tmp_path / "results", {outcome.name: expected[outcome.name]})


def test_an_interruption_keeps_what_is_stored(
    work: Path, expected: dict[str, Result], tmp_path: Path, over: Any, written: Any
) -> None:
    class Stopped(LocalPool):
        def events(self, timeout: float) -> list[Event]:
            found = super().events(timeout)
            if len(written) > 40:
                raise KeyboardInterrupt
            return found

    over(lambda options: Stopped(SERVICE, config_of(options), ["a"]))
    options = options_of(work, tmp_path / "results", on="ray")
    with pytest.raises(KeyboardInterrupt):
        evaluate(work / "runs", options)
    n = len(written)
    over(local)
    evaluate(work / "runs", options)
    assert_same(tmp_path / "results", expected)
    assert n < len(written) == len(set(written)), "the second call goes on where the first was"


def test_failures_are_those_of_one_process(work: Path, tmp_path: Path, over: Any) -> None:
    from tests.evaluation.test_shared_work import broken_runs

    runs = broken_runs(work / "runs" / "00-native", tmp_path / "runs")
    options = options_of(work, tmp_path / "here")
    here = evaluate(runs, options)
    over(local)
    there = evaluate(runs, options_of(work, tmp_path / "there", on="ray"))
    told = [(outcome.name, outcome.status, outcome.error) for outcome in there]
    assert told == [(outcome.name, outcome.status, outcome.error) for outcome in here]
    assert [outcome.status for outcome in there] == ["ok", "failed", "failed"]
    with pytest.raises(EvaluationError, match="2 runs have failed, more than 1"):
        evaluate(runs, options_of(work, tmp_path / "fewer", on="ray", max_failures=1))
    with pytest.raises(EvaluationError, match="2 runs have failed, more than 1"):
        evaluate(runs, options_of(work, tmp_path / "fewer", max_failures=1))


def test_a_run_that_ends_its_workers_fails_alone(
    work: Path, expected: dict[str, Result], tmp_path: Path, over: Any
) -> None:
    poison = "04-native"

    class Poisoned(Dying):
        def events(self, timeout: float) -> list[Event]:
            if self._asked and (
                self._asked[0][2]["do"] == "measure" and poison in self._asked[0][2]["names"]
            ):
                self.chance.random = lambda: 0.0  # type: ignore[method-assign]
            else:
                self.chance.random = lambda: 1.0  # type: ignore[method-assign]
            return super().events(timeout)

    over(lambda options: Poisoned(SERVICE, config_of(options), ["a", "b"], seed=0))
    outcomes = evaluate(work / "runs", options_of(work, tmp_path / "results", on="ray"))
    (bad,) = [outcome for outcome in outcomes if outcome.status != "ok"]
    assert bad.name == poison
    assert "ended each worker that measured it (the last: killed)" in str(bad.error)


def test_standard_errors_are_reached_on_as_many_tokens(
    work: Path, tmp_path: Path, over: Any
) -> None:
    target = {"l0": 0.4}
    one = evaluate(
        work / "runs" / "00-native", options_of(work, tmp_path / "here", target_se=target)
    )
    over(local)
    many = evaluate(
        work / "runs" / "00-native",
        options_of(work, tmp_path / "there", target_se=target, on="ray"),
    )
    here, there = one[0].result, many[0].result
    assert here is not None
    assert there is not None
    assert here.setting == there.setting
    assert here.metrics["l0"].value == pytest.approx(there.metrics["l0"].value, rel=1e-9)


def test_shares_of_the_tokens_add_up(
    work: Path, expected: dict[str, Result], tmp_path: Path, over: Any
) -> None:
    over(local)
    for index, status in ((1, "partial"), (0, "ok")):
        options = options_of(work, tmp_path / "results", on="ray", shard=(index, 2))
        assert statuses(evaluate(work / "runs", options)) == {status}
    assert_same(tmp_path / "results", expected)


def test_what_a_cluster_cannot_do_is_told_first(work: Path, monkeypatch: Any) -> None:
    with pytest.raises(UsageError, match="'moon' is no cluster"):
        evaluate(work / "runs", on="moon")
    for more, reason in (({"device": "cuda:1"}, "is not a device of every node of a cluster"),):
        monkeypatch.setattr(runner, "engine_of", lambda on: on)
        with pytest.raises(UsageError, match=reason):
            evaluate(work / "runs", options_of(work, work / "none", on="ray", **more))
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs ray, which is not installed; pip install 'prolu"):
        evaluate(work / "runs", on="ray")


def test_events_name_their_calls(tmp_path: Path) -> None:
    options = EvaluationOptions(on="ray", device="cpu")
    pool = LocalPool(SERVICE, config_of(options), ["a"])
    (joined,) = pool.events(0)
    assert isinstance(joined, Joined)
    call = pool.submit(joined.worker, {"do": "mean", "group": 0})
    (answered,) = pool.events(0)
    assert isinstance(answered, Answered)
    assert answered.call == call
    assert answered.answer == {worker.UNREADY: True}
    shutil.rmtree(tmp_path)
