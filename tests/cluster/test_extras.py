"""Races, tasks and the user's own modules over workers give what they give in one process."""

import pickle
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prolu_eval.checkpoints.native import save_run
from prolu_eval.cluster.pool import Event, Gone, Joined, LocalPool, Message, Worker
from prolu_eval.errors import CheckpointError, ResultsError
from prolu_eval.evaluation import EvaluationOptions, Outcome, evaluate, worker
from prolu_eval.evaluation.distributed import SERVICE, config_of
from prolu_eval.evaluation.parts import Parts
from prolu_eval.evaluation.probing import Probing
from prolu_eval.evaluation.worker import EvaluationWorker
from prolu_eval.results import Result
from prolu_eval.runs import Run, RunConfig
from tests.evaluation.test_own_encoders import Mine, settings  # noqa: F401 (fixtures)
from tests.evaluation.test_racing import OPTIONS, RACE, runs  # noqa: F401 (fixtures)
from tests.evaluation.test_tasks import accuracies, identity, options, probed  # noqa: F401 (fixtures)
from tests.helpers.cluster_runs import local, options_of, statuses, write_runs
from tests.helpers.inducing import WIDTH, save_inducing

Over = Callable[[Callable[[EvaluationOptions], LocalPool]], None]


def results_of(outcomes: Sequence[Outcome]) -> dict[str, Result]:
    assert all(outcome.result is not None for outcome in outcomes), outcomes
    return {o.name: o.result for o in outcomes if o.result is not None}


def assert_alike(found: Mapping[str, Result], expected: Mapping[str, Result]) -> None:
    """Assert that results are those of other results, up to float32 rounding within a batch."""
    assert found.keys() == expected.keys()
    for name, result in expected.items():
        assert found[name].fingerprint == result.fingerprint
        assert found[name].tasks == result.tasks
        assert found[name].metrics.keys() == result.metrics.keys()
        for key, estimate in result.metrics.items():
            assert found[name].metrics[key].value == (
                None
                if estimate.value is None
                else pytest.approx(estimate.value, rel=1e-5, abs=1e-6)
            ), (name, key)


def blinded(patched: pytest.MonkeyPatch) -> None:
    """Let workers see only the files that were sent to them."""
    is_here = worker._is_here

    def only_arrived(run: Run, digests: Mapping[str, str]) -> bool:
        return "arrived" in str(run.files[0]) and is_here(run, digests)

    patched.setattr(worker, "_is_here", only_arrived)


@pytest.mark.parametrize("together", [True, False])
def test_a_race_drops_the_same_runs(
    runs: Path,  # noqa: F811
    tmp_path: Path,
    over: Over,
    together: bool,
) -> None:
    """With all runs in one round, and with results of some of them that were stored before."""
    here = evaluate(runs, replace(RACE, results=tmp_path / "here"))
    over(local)
    if not together:
        evaluate(runs / "a", replace(OPTIONS, results=tmp_path / "there", on="ray"))
        evaluate(runs / "bad0", replace(OPTIONS, results=tmp_path / "there", on="ray"))
    there = evaluate(runs, replace(RACE, results=tmp_path / "there", on="ray"))
    assert {o.name for o in here if o.status == "dropped"} == {"bad0", "bad1"}
    was_there = set() if together else {"a", "bad0"}
    for one, other in zip(here, there, strict=True):
        assert one.name == other.name
        assert one.result is not None
        assert other.result is not None
        if one.name in was_there:
            assert other.status == "cached"
            continue
        assert other.status == one.status
        assert_alike({"": other.result}, {"": one.result})
        if one.result.dropped is not None:
            assert other.result.dropped is not None
            assert replace_winner(other.result) == replace_winner(one.result)
    again = evaluate(runs, replace(RACE, results=tmp_path / "there", on="ray"))
    assert statuses(again) <= {"dropped", "cached"}
    assert not list((tmp_path / "there").rglob("*.parts"))


def replace_winner(result: Result) -> Any:
    """Why a run left a race, except for which of several equal winners is named."""
    assert result.dropped is not None
    return result.dropped.model_copy(update={"beaten_by": ""})


def test_a_race_goes_on_after_it_was_interrupted(
    runs: Path,  # noqa: F811
    tmp_path: Path,
    over: Over,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = evaluate(runs, replace(RACE, results=tmp_path / "here"))
    options = replace(RACE, results=tmp_path / "there", on="ray")
    for most in (3, 5, 9):
        write, left = Parts.write, [most]

        def stopping(
            self: Parts, name: str, arrays: Any, write: Any = write, left: Any = left
        ) -> None:
            write(self, name, arrays)
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        over(local)
        monkeypatch.setattr(Parts, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            evaluate(runs, options)
        monkeypatch.setattr(Parts, "write", write)
    there = evaluate(runs, options)
    assert [(o.name, o.status) for o in there] == [(o.name, o.status) for o in here]
    assert_alike(results_of(there), results_of(here))


def test_results_are_completed_with_tasks(
    probed: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
    over: Over,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, data = probed
    here = evaluate(found, options(data, k=(1, 2), results=tmp_path / "here"))
    over(local)
    far = {"results": tmp_path / "there", "on": "ray"}
    # A stored result is completed, and what it has is not measured again.
    plain = evaluate(found, options(data, measure=(), **far))
    assert all(not result.tasks for result in results_of(plain).values())
    some = evaluate(found, options(data, k=(1,), **far))
    assert statuses(some) == {"ok"}
    assert {result.tasks["probes"].k for result in results_of(some).values()} == {(1,)}
    there = evaluate(found, options(data, k=(2,), **far))
    assert_alike(results_of(there), results_of(here))
    for name, result in results_of(here).items():
        sums = results_of(there)[name].sums("probes")
        for column, values in result.sums("probes").items():
            np.testing.assert_allclose(sums[column], values, rtol=1e-6, err_msg=column)

    def fail(*_: Any, **__: Any) -> Any:
        raise CheckpointError("one", "cannot be probed", "mend it")

    monkeypatch.setattr(Probing, "of", fail)
    assert statuses(evaluate(found, options(data, k=(1, 2), **far))) == {"cached"}
    failed = evaluate(found, options(data, k=(1,), results=tmp_path / "bad", on="ray"))
    assert [(o.status, o.error) for o in failed] == [
        ("failed", "one: cannot be probed; mend it.")
    ] * 2


def test_behaviour_is_measured_on_workers(tmp_path: Path, over: Over) -> None:
    model = save_inducing(tmp_path / "model")
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(1, 32, (8, 40)))
    made = RunConfig(
        variant="", d_in=WIDTH, d_sae=2 * WIDTH, model=str(model), context_length=40,
        dataset=str(tmp_path / "ids.npy"), hook="blocks.0.hook_resid_post",
    )  # fmt: skip
    save_run(tmp_path / "runs" / "whole", identity(WIDTH), made)
    save_run(tmp_path / "runs" / "half", identity(WIDTH, slice(40)), made)
    asked = EvaluationOptions(device="cpu", split="all", measure=("behaviour",))
    here = evaluate(tmp_path / "runs", replace(asked, results=tmp_path / "here"))
    over(local)
    there = evaluate(tmp_path / "runs", replace(asked, results=tmp_path / "there", on="ray"))
    assert_alike(results_of(there), results_of(here))
    assert accuracies(results_of(there)["whole"]) == (1, 1, 0, 2)


def test_what_cannot_be_measured_in_addition_fails_before_anything_is_measured(
    tmp_path: Path, tiny_model: Callable[[str], Path], over: Over
) -> None:
    work = write_runs(tmp_path, [tiny_model("llama")], 2)
    data = work / "data.csv"
    data.write_text("prompt,target\n" + "\n".join(f"word {i},{i % 2}" for i in range(80)))
    for file in tiny_model("llama").glob("tokenizer*"):
        assert file.exists()
    asked = options_of(work, tmp_path / "here", measure="probes", probe_data=data)
    here = evaluate(work / "runs", asked)
    over(local)
    there = evaluate(work / "runs", replace(asked, results=tmp_path / "there", on="ray"))
    assert [(o.status, o.error) for o in there] == [(o.status, o.error) for o in here]


def test_own_modules_are_sent(settings: dict[str, Any], tmp_path: Path, over: Over) -> None:  # noqa: F811
    modules = {"a": Mine(0), "b": Mine(1), "bent": Mine(2, power=2.0)}
    here = evaluate(modules, **settings, results=tmp_path / "here")
    over(local)
    there = evaluate(modules, **settings, results=tmp_path / "there", on="ray")
    assert statuses(there) == {"ok"}
    assert_alike(results_of(there), results_of(here))
    source = "from tests.evaluation.test_own_encoders import Mine\n"
    (tmp_path / "own.py").write_text(source + "def make(): return {'a': Mine(0), 'b': Mine(1)}\n")
    plugin = evaluate(
        [], **settings, plugin=f"{tmp_path}/own.py:make", results=tmp_path / "plugin", on="ray"
    )
    assert statuses(plugin) == {"ok"}
    for name, result in results_of(plugin).items():
        assert result.metrics == results_of(there)[name].metrics


def test_a_module_that_cannot_be_sent_fails_alone(
    settings: dict[str, Any],  # noqa: F811
    tmp_path: Path,
    over: Over,
) -> None:
    class Pickling(LocalPool):
        def put(self, value: Any) -> Any:
            pickle.dumps(value)
            return value

    over(lambda options: Pickling(SERVICE, config_of(options), ["a"]))
    locked = Mine(1)
    locked.lock = threading.Lock()  # type: ignore[assignment]
    locked.__deepcopy__ = lambda _: Mine(1)  # type: ignore[assignment]
    found = evaluate(
        {"good": Mine(0), "bad": locked}, **settings, results=tmp_path / "there", on="ray"
    )
    assert [o.status for o in found] == ["ok", "failed"]
    assert "cannot be sent to workers (cannot pickle" in str(found[1].error)


def test_atoms_are_read_where_they_arrive(tmp_path: Path, over: Over, settings: Any) -> None:  # noqa: F811
    atoms = np.random.default_rng(0).normal(size=(40, 32)).astype(np.float32)
    (tmp_path / "atoms").mkdir()
    np.save(tmp_path / "atoms" / "atoms.npy", atoms)
    given = {**settings, "encoder": "top-k=4"}
    here = evaluate(tmp_path / "atoms", **given, results=tmp_path / "here")

    class Removing(LocalPool):
        """Removes the file once it has been sent, so that only its copy can be read."""

        def submit(self, worker: Worker, message: Message) -> int:
            if message.get("parcels"):
                (tmp_path / "atoms" / "atoms.npy").unlink(missing_ok=True)
            return super().submit(worker, message)

    over(lambda options: Removing(SERVICE, config_of(options), ["a"]))
    with pytest.MonkeyPatch.context() as patched:
        blinded(patched)
        there = evaluate(tmp_path / "atoms", **given, results=tmp_path / "there", on="ray")
    assert not (tmp_path / "atoms" / "atoms.npy").exists()
    assert_alike(results_of(there), results_of(here))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]) -> Path:
    return write_runs(tmp_path_factory.mktemp("work"), [tiny_model("llama")], 12)


@pytest.fixture(scope="module")
def expected(work: Path) -> dict[str, Result]:
    return results_of(evaluate(work / "runs", options_of(work, work / "undisturbed")))


def test_a_copy_that_was_damaged_on_a_node_is_sent_again(
    work: Path, tmp_path: Path, over: Over, expected: dict[str, Result]
) -> None:
    hidden = shutil.copytree(work / "runs", tmp_path / "runs")
    with pytest.MonkeyPatch.context() as patched:
        blinded(patched)
        over(local)
        evaluate(hidden, options_of(work, tmp_path / "first", on="ray"))
        copies = [path for path in (tmp_path / "cache").rglob("runs/**/*") if path.is_file()]
        assert copies
        for path in copies:
            path.write_bytes(b"damaged")
        there = evaluate(hidden, options_of(work, tmp_path / "there", on="ray"))
    assert_alike(results_of(there), expected)


def with_first_worker(kind: type[EvaluationWorker]) -> type[LocalPool]:
    """Pools whose first worker is of another kind."""

    class Mixed(LocalPool):
        def events(self, timeout: float) -> list[Event]:
            found = super().events(timeout)
            if any(isinstance(event, Joined) for event in found):
                self._services[0] = kind(self.config, lambda value: value)
            return found

    return Mixed


def test_a_node_that_can_keep_nothing_costs_no_run(
    work: Path, tmp_path: Path, over: Over, expected: dict[str, Result]
) -> None:
    """Its units are tried on another node, however quickly it refuses them."""
    refused: list[str] = []

    class Refusing(EvaluationWorker):
        def answer(self, message: Message) -> dict[str, Any]:
            refused.append(message["do"])
            raise ResultsError("/cache", "cannot keep files that were sent", "free space")

    one_refuses = with_first_worker(Refusing)
    over(lambda options: one_refuses(SERVICE, config_of(options), ["full", "good"]))
    there = evaluate(work / "runs", options_of(work, tmp_path / "there", on="ray"))
    assert len(refused) > 3
    assert_alike(results_of(there), expected)
    over(lambda options: one_refuses(SERVICE, config_of(options), ["full"]))
    alone = evaluate(work / "runs", options_of(work, tmp_path / "alone", on="ray"))
    assert {o.error for o in alone} == {"/cache: cannot keep files that were sent; free space."}


def test_a_run_that_fails_on_one_node_is_measured_on_another(
    work: Path, tmp_path: Path, over: Over, expected: dict[str, Result]
) -> None:
    class Small(EvaluationWorker):
        def _load(self, message: Message, prepared: Any) -> Any:
            failed = super()._load(message, prepared)
            for name in [name for name in self._records if name == "05-saelens"]:
                del self._records[name]
                failed[name] = CheckpointError(name, "cannot be read here", "mend it")
            return failed

    one_is_small = with_first_worker(Small)
    over(lambda options: one_is_small(SERVICE, config_of(options), ["small", "good"]))
    there = evaluate(work / "runs", options_of(work, tmp_path / "there", on="ray"))
    assert_alike(results_of(there), expected)
    over(lambda options: one_is_small(SERVICE, config_of(options), ["small"]))
    alone = evaluate(work / "runs", options_of(work, tmp_path / "alone", on="ray"))
    (bad,) = [outcome for outcome in alone if outcome.status == "failed"]
    assert bad.error == "05-saelens: cannot be read here; mend it."
    assert bad.name == "05-saelens"


@pytest.mark.parametrize("how", ["told", "killed", "known to be killed"])
def test_portions_that_need_too_much_memory_become_smaller(
    work: Path, tmp_path: Path, over: Over, expected: dict[str, Result], how: str
) -> None:
    """A worker has room for two autoencoders; it says so, or it is killed if it has more."""
    held: list[int] = []

    class Small(EvaluationWorker):
        def _load(self, message: Message, prepared: Any) -> Any:
            failed = super()._load(message, prepared)
            held.append(len(self._records))
            if len(self._records) > 2 and how == "told":
                raise MemoryError("no room")
            return failed

    class Killing(LocalPool):
        def events(self, timeout: float) -> list[Event]:
            asked = self._asked[0] if self._asked else None
            found = super().events(timeout)
            if any(isinstance(event, Joined) for event in found):
                self._services = {i: Small(self.config, lambda value: value) for i in range(2)}
            if how == "told" or asked is None:
                return found
            victim = asked[0]
            service = self._services[victim.id]
            assert isinstance(service, EvaluationWorker)
            if len(service._records) <= 2:
                return found
            new = Worker(1000 + len(held), victim.node, "cpu")
            del self._services[victim.id]
            self._services[new.id] = Small(self.config, lambda value: value)
            self._asked = [other for other in self._asked if other[0] != victim]
            return [Gone(victim, "killed", how == "known to be killed"), Joined(new)]

    over(lambda options: Killing(SERVICE, config_of(options), ["a", "b"]))
    there = evaluate(work / "runs", options_of(work, tmp_path / "there", on="ray"))
    assert max(held) > 2
    assert_alike(results_of(there), expected)


def test_a_run_that_needs_too_much_memory_alone_is_given_up_and_says_so(
    work: Path, tmp_path: Path, over: Over, expected: dict[str, Result]
) -> None:
    class Small(EvaluationWorker):
        def _load(self, message: Message, prepared: Any) -> Any:
            if any(record.run.name == "04-native" for record in message["load"]):
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 7 bytes")
            return super()._load(message, prepared)

    class AllSmall(LocalPool):
        def events(self, timeout: float) -> list[Event]:
            found = super().events(timeout)
            if any(isinstance(event, Joined) for event in found):
                self._services = {i: Small(self.config, lambda value: value) for i in range(2)}
            return found

    over(lambda options: AllSmall(SERVICE, config_of(options), ["a", "b"]))
    there = evaluate(work / "runs", options_of(work, tmp_path / "there", on="ray"))
    (bad,) = [outcome for outcome in there if outcome.status == "failed"]
    assert bad.name == "04-native"
    assert "has too little memory for a run (DefaultCPUAllocator" in str(bad.error)
    others = [outcome for outcome in there if outcome.name != "04-native"]
    assert_alike(results_of(others), {n: r for n, r in expected.items() if n != "04-native"})
