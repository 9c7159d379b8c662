"""Labelled prompts are read from folders, wheels and files, and the choice is always the same."""

import gzip
import importlib.metadata
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from prolu_eval.errors import ProluEvalError, TokensError, UsageError
from prolu_eval.tasks import labelled
from prolu_eval.tasks.labelled import LabelledTask, probe_tasks


def csv(n: int, classes: tuple[str, ...] = ("no", "yes")) -> str:
    rows = [f'"prompt {i}, ""quoted""\nand a line",{classes[i % len(classes)]}' for i in range(n)]
    return "\n".join(["prompt,target", *rows])


def written(folder: Path) -> Path:
    """Two tasks in a folder, one of them compressed, and files that are no task of two classes."""
    (folder / "data").mkdir(parents=True)
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "zstd") as stream:
        stream.write(csv(60).encode())
    (folder / "data" / "1_first.csv.zst").write_bytes(packed.getvalue().to_pybytes())
    (folder / "data" / "2_second.csv").write_text(csv(80, ("0", "1")))
    (folder / "data" / "3_three.csv").write_text(csv(90, ("a", "b", "c")))
    (folder / "data" / "4_few.csv").write_text(csv(20))
    (folder / "data" / "5_other.csv").write_text("text,label\na,1\n")
    (folder / "OOD data").mkdir()
    (folder / "OOD data" / "1_first.csv").write_text(csv(60))
    return folder


def by_name(tasks: list[LabelledTask]) -> dict[str, tuple[tuple[str, ...], list[bool], str]]:
    return {task.name: (task.prompts, task.labels.tolist(), task.digest) for task in tasks}


def test_a_folder_and_a_wheel_of_it_hold_the_same_tasks(tmp_path: Path) -> None:
    folder = written(tmp_path / "folder")
    found = by_name(probe_tasks(folder))
    assert list(found) == ["1_first", "2_second"]
    prompts, labels, _ = found["1_first"]
    assert prompts[:2] == ('prompt 0, "quoted"\nand a line', 'prompt 1, "quoted"\nand a line')
    assert labels == [False, True] * 30
    wheel = tmp_path / "sae_probes-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in folder.rglob("*.csv*"):
            archive.write(path, f"sae_probes/{path.relative_to(folder)}")
    assert by_name(probe_tasks(wheel)) == found
    assert list(by_name(probe_tasks(wheel, ["2_*"]))) == ["2_second"]
    one = tmp_path / "own.csv.gz"
    one.write_bytes(gzip.compress(csv(80, ("0", "1")).encode()))
    assert by_name(probe_tasks(one))["own"] == found["2_second"]


def test_the_installed_package_is_read_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path / "sae_probes")
    (folder / "__init__.py").write_text("raise RuntimeError")
    info = tmp_path / "sae_probes-0.4.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sae-probes\nVersion: 0.4.2\n")
    files = [path.relative_to(tmp_path).as_posix() for path in folder.rglob("*") if path.is_file()]
    (info / "RECORD").write_text("".join(f'"{name}",,\n' for name in files))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert importlib.metadata.version("sae-probes") == "0.4.2"
    assert by_name(probe_tasks(None)) == by_name(probe_tasks(folder))


def test_classes_are_balanced_and_large_tasks_are_drawn_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelled, "N_EXAMPLES", 60)
    rows = [f"{i},{'rare' if i < 40 else 'common'}" for i in range(400)]
    path = tmp_path / "own.csv"
    path.write_text("\n".join(["prompt,target", *rows, "0,rare", ",rare", "  ,rare"]))
    (task,) = probe_tasks(path)
    assert task.labels.sum() == 30 == len(task.labels) / 2
    assert len(set(task.prompts)) == 60
    again = probe_tasks(path)[0]
    assert (again.prompts, again.digest) == (task.prompts, task.digest)
    assert sum(int(prompt) >= 200 for prompt in task.prompts) > 5, "not the first ones alone"


@pytest.mark.parametrize(
    ("name", "content", "patterns", "kind", "words"),
    [
        (None, "", [], UsageError, ["does not exist", "pip download --no-deps sae-probes"]),
        ("a.txt", "text", [], TokensError, ["no CSV file", "prompt and target"]),
        ("a.csv", "prompt,target\n", [], TokensError, ["no task with two classes"]),
        ("a.csv", csv(60), ["b"], UsageError, ["--tasks", "'b'", "such as a"]),
        ("a.csv", csv(9), ["a"], UsageError, ["--tasks", "two classes", "25 prompts"]),
        ("a.csv", 'prompt,target\n"open', [], TokensError, ["a", "cannot be read"]),
        ("a.csv.zst", "\x28\u00b5", [], TokensError, ["cannot be read"]),
    ],
)
def test_what_cannot_be_used_is_told_in_a_line(
    name: str | None,
    content: str,
    patterns: list[str],
    kind: type[ProluEvalError],
    words: list[str],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "data"
    if name is not None:
        folder.mkdir()
        bad = name.endswith(".zst")
        (folder / name).write_bytes(b"\x28\xb5\x2f\xfd damaged" if bad else content.encode())
    with pytest.raises(kind) as told:
        probe_tasks(folder, patterns)
    for word in words:
        assert word in str(told.value)
    assert "\n" not in str(told.value)


def test_without_the_package_its_wheel_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled, "PACKAGE", "no-such-package")
    with pytest.raises(UsageError, match="pip download --no-deps"):
        probe_tasks(None)
