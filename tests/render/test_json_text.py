"""JSON for review: its form, and the lines that errors name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prolu_eval import json_text
from prolu_eval.json_text import (
    JsonTextError,
    canonical,
    dumps,
    dumps_compact,
    line_of,
    loads,
)

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
DOCUMENTS = st.recursive(
    SCALARS | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)  # fmt: skip


@given(DOCUMENTS)
def test_what_is_written_is_read(document: Any) -> None:
    assert loads(dumps(document)) == json.loads(json.dumps(document))


def test_a_scalar_with_its_error_stands_on_one_line() -> None:
    metrics = {key: {"value": 0.5, "standard_error": 0.01} for key in ("l0", "mse")}
    lines = dumps({"runs": {"a": {"metrics": metrics}}}).splitlines()
    assert '    "l0": {"value": 0.5, "standard_error": 0.01},' in lines
    assert len(lines) == 10


TEXT = """{
 "a": {"x": 1, "y\\"{": [1, {"x": 2}]},
 "b": {
  "x": ":,{",
  "a": 4
 }
}
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [(("a",), 2), (("a", "x"), 2), (("b",), 3), (("b", "x"), 4), (("b", "a"), 5),
     (("b", "missing"), 3), (("c",), 1), (("a", 'y"{', 1, "x"), 2)],
)  # fmt: skip
def test_line_of_a_key(path: tuple[str | int, ...], line: int) -> None:
    assert line_of(TEXT, path) == line


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (TEXT[:60], 4, "ends in the middle"),
        (TEXT[:3], 2, "ends in the middle"),
        ("", 1, "ends in the middle"),
        (TEXT.replace(' "b"', '<<<<<<< HEAD\n "b"'), 3, "merge conflict"),
        (TEXT.replace('"a": 4', '"a": 4,\n  "x": 5'), 6, "names 'x' a second time"),
        (TEXT.replace("4", "NaN"), 5, "has NaN for a number"),
        (TEXT.replace("4", "four"), 5, "is not JSON"),
    ],
)
def test_damage_is_named_with_its_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(JsonTextError) as caught:
        loads(text)
    assert caught.value.line == line
    assert reason in caught.value.reason


@given(DOCUMENTS.filter(lambda d: isinstance(d, dict) and d), st.data())
def test_every_key_is_found_on_its_line(document: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(document, indent=1)
    key = data.draw(st.sampled_from(sorted(document)))
    assert text.splitlines()[line_of(text, [key]) - 1].startswith(f" {json.dumps(key)}:")


@pytest.mark.parametrize("write", [dumps, dumps_compact, canonical])
def test_no_document_has_a_number_that_is_none(write: Callable[[Any], str]) -> None:
    for odd in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write({"runs": [{"l0": odd}]})


def test_equal_documents_have_one_text() -> None:
    assert canonical({"b": 1, "a": Path("x")}) == canonical({"a": "x", "b": 1})


def test_nothing_else_writes_json() -> None:
    """The conversion of a YAML file to plain values, which are read strictly, is excepted."""
    package = Path(json_text.__file__).parent
    writers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "json.dump" in path.read_text(encoding="utf-8")
    }
    assert writers == {"json_text.py", "checkpoints/reading.py"}
