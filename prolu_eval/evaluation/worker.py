"""A cluster's worker for an evaluation, which does all work that needs the model.

It uses the same :class:`~prolu_eval.evaluation.preparation.Preparation`, engines and
:class:`~prolu_eval.evaluation.assembly.Assembly` as an evaluation in one process. It sends what it
measures back to the process that asked, and keeps nothing that could not be computed again.
"""

import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from prolu_eval.checkpoints import load_run
from prolu_eval.checkpoints.modules import FORMAT as MODULE
from prolu_eval.cluster.parcels import Arrivals, Parcel, has_content
from prolu_eval.cluster.pool import ERROR, Fetch, Message, fault, last_line
from prolu_eval.cluster.sight import LACKED, MODEL, TOKENS, UNSEEN, UnseenError, find_here
from prolu_eval.devices import working_on
from prolu_eval.errors import CheckpointError, MemoryShortageError, ModelError, ProluEvalError
from prolu_eval.evaluation.assembly import Assembly
from prolu_eval.evaluation.extra_measures import Completion, ExtraMeasures, check_installed
from prolu_eval.evaluation.lost_scale import with_estimated_scale
from prolu_eval.evaluation.memory import check_room, is_out_of_memory, release
from prolu_eval.evaluation.options import EvaluationOptions
from prolu_eval.evaluation.precisions import choose
from prolu_eval.evaluation.preparation import Preparation, Prepared
from prolu_eval.evaluation.records import Record
from prolu_eval.evaluation.reference import piece_of_mean
from prolu_eval.evaluation.sums import Measurement
from prolu_eval.precision import matrix_products
from prolu_eval.runs import Run
from prolu_eval.saes import SparseAutoencoder
from prolu_eval.tokens import TokenRows

UNREADY, OUT_OF_MEMORY = "unready", "out of memory"
_HEX = 64  # digits of a digest
_IN_HUB_CACHE = re.compile(r"(.*/models--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]+))/(.+)")


class _UnreadyError(Exception):
    """A message needs something that this worker has not loaded."""


class EvaluationWorker:
    """Answers the messages of :mod:`prolu_eval.evaluation.distributed`.

    In a message, ``do`` names the action, ``parcels`` contains files, ``begin`` a group of runs
    under the same conditions, and ``load`` runs whose autoencoders stay loaded from then on,
    together with those that ``hold`` names. An answer may contain :data:`UNSEEN`, if this node
    cannot read something, with :data:`LACKED`, the folders of these runs that do not exist on it;
    :data:`UNREADY`, if earlier messages were not executed; or :data:`OUT_OF_MEMORY`. Nothing was
    done in these cases.

    Args:
        config: the options of the evaluation, the device, and the folder to which paths are
            relative.
        fetch: a function that returns an object stored in the cluster.
    """

    def __init__(self, config: Message, fetch: Fetch) -> None:
        self._options = EvaluationOptions(**{**config["options"], "device": config["device"]})
        self._folder: str = config["folder"]
        self._fetch, self._arrivals = fetch, Arrivals()
        self._local_paths: dict[str, str] = {}
        self._preparation = Preparation(self._options, self._local_paths)
        self._group: tuple[int, Prepared] | None = None
        self._assemblies: dict[int, Assembly] = {}
        self._extra = ExtraMeasures()
        self._completion: Completion | None = None
        self._records: dict[str, tuple[Record, SparseAutoencoder]] = {}

    def answer(self, message: Message) -> dict[str, Any]:
        """Execute a message.

        Raises:
            ProluEvalError: if it cannot be executed.
        """
        do = {
            "prepare": self._prepare,
            "mean": self._mean,
            "ablations": self._ablations,
            "measure": self._measure,
            "assemble": self._assemble,
            "complete": self._complete,
        }[message["do"]]
        try:
            for parcel in message.get("parcels", ()):
                self._arrivals.unpack(parcel, self._fetch)
            with working_on(self._options.device):
                return do(message)
        except UnseenError as unseen:
            return {UNSEEN: unseen.what, LACKED: unseen.folders}
        except _UnreadyError:
            return {UNREADY: True}
        except (ProluEvalError, RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                return self._out_of_memory(error)
            if isinstance(error, ProluEvalError):
                raise self._told(error) from None
            raise

    def _prepare(self, message: Message) -> dict[str, Any]:
        """Find out how runs are measured: precision, rows, shards, and estimates of lost scales."""
        conditions, runs = message["conditions"], list(message["runs"])
        self._forget()
        self._see(message)
        if self._options.dtype == "auto":
            digests = message["digests"]
            in_files = [(run, digests[run.name]) for run in runs if run.format != MODULE]
            found = self._seen(in_files)
            runs = [found.get(run.name) or self._with_module(run, message) for run in runs]
        precision = choose(conditions, runs, self._preparation, self._options)
        with matrix_products(tf32=precision.dtype == "tf32"):
            prepared = self._preparation.prepare(conditions, runs, precision, lambda _: None)
            self._completed_by(prepared)  # tells what cannot be measured before anything is
            scaled = runs
            if self._options.estimate_scale and any(run.needs_scale for run in runs):
                scaled = with_estimated_scale(runs, prepared.engine)
        rows = prepared.engine.tokens
        changed = {
            run.name: (new.activation_scale, new.besides, new.provenance)
            for run, new in zip(runs, scaled, strict=True)
            if new is not run
        }
        return {
            "precision": precision,
            "settings": dict(prepared.settings),
            "shards": list(prepared.shards),
            "ids": rows.ids.numpy(),
            "counted": rows.counted.numpy(),
            "source": rows.source,
            "scales": changed,
            "columns": prepared.engine.reference_columns,
        }

    def _mean(self, message: Message) -> dict[str, Any]:
        with self._begun(message) as prepared:
            started = self._started()
            piece = piece_of_mean(prepared.engine, message["rows"])
            return {"piece": piece, "seconds": self._seconds(started)}

    def _ablations(self, message: Message) -> dict[str, Any]:
        with self._begun(message) as prepared:
            started = self._started()
            piece = dict(prepared.engine.reference(self._fetch(message["mean"]), message["rows"]))
            return {"piece": piece, "seconds": self._seconds(started)}

    def _measure(self, message: Message) -> dict[str, Any]:
        with self._begun(message) as prepared:
            failed = self._load(message, prepared)
            saes = {
                name: self._records[name][1] for name in message["names"] if name in self._records
            }
            started = self._started()
            found = prepared.engine.measure_saes(saes, message["rows"]) if saes else {}
            seconds = self._seconds(started)
        parts = {}
        for name, measured in found.items():
            if isinstance(measured, Measurement):
                parts[name] = measured.stored()
            else:
                failed[name] = measured
        told = {name: fault(self._told(error)) for name, error in failed.items()}
        return {"parts": parts, "failed": told, "seconds": seconds}

    def _assemble(self, message: Message) -> dict[str, Any]:
        n, (name,) = message["n_shards"], message["names"]
        with self._begun(message) as prepared:
            failed = self._load(message, prepared)
            if name in failed:
                return {ERROR: fault(self._told(failed[name]))}
            if n not in self._assemblies:
                prepared.refer_to(n, self._fetch(message["reference"]))
                self._assemblies[n] = Assembly(prepared, n)
                self._assemblies[n].warn_of_foreign_ids()
            record, sae = self._records[name]
            measurement = Measurement.restored(message["sums"])
            return {"result": self._assemblies[n].assembled(record, sae, measurement)}

    def _complete(self, message: Message) -> dict[str, Any]:
        """Measure a run on the tasks that its stored result lacks."""
        (name,) = message["names"]
        self._records.pop(name, None)  # it is loaded anew, since measuring may round its weights
        with self._begun(message) as prepared:
            failed = self._load(message, prepared)
            if name in failed:
                return {ERROR: fault(self._told(failed[name]))}
            record, sae = self._records.pop(name)
            completion = self._completed_by(prepared)
            return {"tasks": completion.measured(record.run, message["tasks"], lambda: sae)}

    def _completed_by(self, prepared: Prepared) -> Completion:
        if self._completion is None:
            self._completion = Completion(self._extra, prepared, shown=False)
        return self._completion

    def _out_of_memory(self, error: Exception) -> dict[str, Any]:
        """The answer to a message that needs too much memory, after releasing everything."""
        self._forget()
        release(torch.device(self._options.device or "cpu"))
        if not isinstance(error, ProluEvalError):
            reason = f"has too little memory for a run ({last_line(error)})"
            remedy = "use workers with more memory, or a smaller --batch-size"
            error = MemoryShortageError(platform.node(), reason, remedy)
        return {OUT_OF_MEMORY: True, ERROR: fault(self._told(error))}

    # The state of the worker

    def _forget(self) -> None:
        self._group = self._completion = None
        self._records.clear()
        self._assemblies.clear()

    def _begun(self, message: Message) -> "_Within":
        """The group of a message, prepared in the same way as on the first worker."""
        if self._group is None or self._group[0] != message["group"]:
            self._forget()
            if (about := message.get("begin")) is None:
                raise _UnreadyError
            about = self._fetch(about)
            self._see(about)
            rows = TokenRows(
                torch.from_numpy(_writable(about["ids"])),
                torch.from_numpy(_writable(about["counted"])),
                about["source"],
            )
            precision = about["precision"]
            with matrix_products(tf32=precision.dtype == "tf32"):
                prepared = self._preparation.prepare(
                    about["conditions"], about["runs"], precision, lambda _: None, rows=rows
                )
            settings = about["settings"]
            if prepared.settings != settings:
                raise ModelError(
                    about["conditions"].model, "is another model on this node than elsewhere",
                    "make sure that all nodes have the same revision of it",
                )  # fmt: skip
            self._group = message["group"], prepared
        return _Within(self._group[1])

    def _load(self, message: Message, prepared: Prepared) -> dict[str, ProluEvalError]:
        """Load the runs of a message, and drop all but those that it names; return errors by run.

        Raises:
            _UnreadyError: if the message names a run that it does not contain and that is not
                loaded.
            UnseenError: if this node cannot read files of a run.
        """
        brought: dict[str, Record] = {record.run.name: record for record in message["load"]}
        new = {name: record for name, record in brought.items() if name not in self._records}
        in_files = [(r.run, r.checkpoint) for r in new.values() if r.run.format != MODULE]
        found = self._seen(in_files)
        if not set(message["names"]) <= self._records.keys() | brought.keys():
            raise _UnreadyError
        kept = {*message["hold"], *message["names"], *brought}
        self._records = {name: held for name, held in self._records.items() if name in kept}
        failed: dict[str, ProluEvalError] = {}
        for name, record in new.items():
            try:
                check_room(record.run, self._options)
                sae = load_run(found.get(name) or self._with_module(record.run, message))
                prepared.engine.check(record.run, sae)
                self._records[name] = record, sae
            except ProluEvalError as error:
                if is_out_of_memory(error):
                    raise
                failed[name] = error
        return failed

    def _with_module(self, run: Run, message: Message) -> Run:
        """The run, with its module if it is one of the user's own.

        Raises:
            CheckpointError: if the module's code is not on this node.
        """
        if run.format != MODULE or (module := message.get("modules", {}).get(run.name)) is None:
            return run
        try:
            return replace(run, loader=self._fetch(module))
        except ProluEvalError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever importing the user's code raises)
            reason = f"its code is not on {platform.node()} ({last_line(error)})"
            remedy = "install it on every node, or define it in FILE.py for --plugin FILE.py:NAME"
            raise CheckpointError(run.name, reason, remedy) from None

    # Files

    def _see(self, about: Message) -> None:
        """Find the model and the tokens on this node or among the files that have arrived."""
        conditions = about["conditions"]
        wanted = {
            MODEL: (conditions.model, about["model"]),
            TOKENS: (conditions.tokens, about["tokens"]),
        }
        find_here(wanted, self._local_paths, self._arrivals)
        if about["extra"] is not None:
            self._extra = self._fetch(about["extra"])
            check_installed(self._extra.measures, platform.node())

    def _seen(self, wanted: Sequence[tuple[Run, Mapping[str, str]]]) -> dict[str, Run]:
        """Runs as they are found on this node, by name.

        Raises:
            UnseenError: if the files of some of them are not on this node.
        """
        found: dict[str, Run] = {}
        unseen: list[Run] = []
        for run, digests in wanted:
            if (here := self._here(run, digests)) is not None:
                found[run.name] = here
            else:
                unseen.append(run)
        if unseen:
            folders = {_lacked(absolute(run, self._folder).path) for run in unseen}
            raise UnseenError([run.name for run in unseen], sorted(folders - {""}))
        return found

    def _here(self, run: Run, digests: Mapping[str, str]) -> Run | None:
        run = absolute(run, self._folder)
        if _is_here(run, digests):
            return run
        key = Parcel.of(run.files, digests.values()).key
        arrived = self._arrivals.place(key, run.files[-1])
        if arrived is not None:
            prefix = str(arrived).removesuffix(str(run.files[-1]))
            files = tuple(Path(f"{prefix}{file}") for file in run.files)
            kept = replace(run, path=Path(f"{prefix}{run.path}"), files=files)
            if _is_here(kept, digests):
                return kept
            self._arrivals.discard(key)  # damaged on this node: it is sent again
        return _from_the_hub(run, digests)

    def _told(self, error: ProluEvalError) -> ProluEvalError:
        """The error, with files named by their paths on the machine that they came from."""
        original = self._arrivals.original
        subject, reason = original(error.subject), original(error.reason)
        return type(error)(subject, reason, error.remedy)

    # Time

    def _started(self) -> float:
        self._wait()
        return time.perf_counter()

    def _seconds(self, started: float) -> float:
        self._wait()
        return time.perf_counter() - started

    @staticmethod
    def _wait() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()


class _Within(ExitStack):
    """A prepared group, whose precision is set until the block ends."""

    def __init__(self, prepared: Prepared) -> None:
        super().__init__()
        self._prepared = prepared

    def __enter__(self) -> Prepared:  # type: ignore[override]
        super().__enter__()
        (dtype, *_) = {setting.dtype for setting in self._prepared.settings.values()}
        self.enter_context(matrix_products(tf32=dtype == "tf32"))
        return self._prepared


def absolute(run: Run, folder: str) -> Run:
    """The run, with its paths made absolute."""
    path, *files = (Path(os.path.normpath(Path(folder, file))) for file in (run.path, *run.files))
    return replace(run, path=path, files=tuple(files))


def _lacked(path: Path) -> str:
    """The largest folder with a path in it that is not on this node; nothing if the path is."""
    missing = ""
    for place in (path, *path.parents):
        if place.exists():
            break
        missing = str(place)
    return missing


def _writable(array: Any) -> Any:
    """A writable array for torch, copied if the array comes from an object store."""
    return array if array.flags.writeable else array.copy()


def _is_here(run: Run, digests: Mapping[str, str]) -> bool:
    """Whether all files of a run are on this node, with the same content as elsewhere.

    If a file of the run could not be read elsewhere, the run is not searched for; it fails anyway.
    """
    if any(len(digest) != _HEX for digest in digests.values()):
        return True
    return all(map(has_content, run.files, digests.values()))


def _from_the_hub(run: Run, digests: Mapping[str, str]) -> Run | None:
    """A run whose files are in another node's hub cache, fetched from the hub; else None."""
    matches = [_IN_HUB_CACHE.fullmatch(str(file)) for file in run.files]
    if any(match is None for match in matches):
        return None
    from huggingface_hub import hf_hub_download

    files = []
    root = here = ""
    try:
        for match in matches:
            if match is not None:
                root, owner, name, revision, file = match.groups()
                path = hf_hub_download(f"{owner}/{name}", file, revision=revision)
                here = path.removesuffix(f"/{file}")
                files.append(Path(path))
    except Exception:  # noqa: BLE001 (no network, no access: then the files travel)
        return None
    moved = replace(run, path=Path(str(run.path).replace(root, here, 1)), files=tuple(files))
    return moved if _is_here(moved, digests) else None
