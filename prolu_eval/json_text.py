"""Writes and reads JSON as the project uses it: without NaN, and with line numbers in errors."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

_WIDTH = 100
_CONFLICT = re.compile(r"^(<{7}|={7}|>{7}|\|{7})( |$)", re.MULTILINE)
# A lone surrogate, which damaged names may contain: it cannot be encoded, only escaped.
_SURROGATE = re.compile("[\ud800-\udfff]")
_TOKEN = re.compile(r'(?P<text>"(?:[^"\\]|\\.)*")(?P<key>\s*:)?|[{}\[\],]')


class JsonTextError(ValueError):
    """A text that is not valid JSON: ``line`` counts from 1, and ``reason`` says what is wrong."""

    def __init__(self, line: int, reason: str) -> None:
        self.line, self.reason = line, reason
        super().__init__(f"line {line}: {reason}")


class Document(BaseModel):
    """A JSON object with exactly these fields; a number that is undefined is null in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def filled(cls, *sources: object, **others: Any) -> Self:
        """A document whose fields are attributes of the same names of some objects.

        Of several objects that have an attribute, the first one's is taken. ``others`` are the
        fields that no object has, or has in another form.
        """
        known = {
            name: getattr(source, name)
            for source in reversed(sources)
            for name in cls.model_fields
            if hasattr(source, name)
        }
        return cls(**known | others)

    def to_json(self) -> dict[str, Any]:
        """The document as plain data that JSON can hold."""
        found: dict[str, Any] = _with_nulls(self.model_dump(mode="json"))
        return found


def _with_nulls(part: Any) -> Any:
    if isinstance(part, float):
        return part if math.isfinite(part) else None
    if isinstance(part, dict):
        return {key: _with_nulls(value) for key, value in part.items()}
    return [_with_nulls(value) for value in part] if isinstance(part, list) else part


def dumps(document: Any, indent: int = 0) -> str:
    """JSON with one item on each line; one without inner objects is written on one line if it fits.

    Raises:
        ValueError: if a number is not finite.
    """
    flat = json.dumps(document, ensure_ascii=False, allow_nan=False)
    flat = _SURROGATE.sub(lambda lone: f"\\u{ord(lone[0]):04x}", flat)
    children = document.values() if isinstance(document, dict) else document
    if not isinstance(document, dict | list) or (
        len(flat) + indent < _WIDTH and not any(isinstance(c, dict) for c in children)
    ):
        return flat
    pad = " " * (indent + 1)
    if isinstance(document, dict):
        parts = [f"{pad}{json.dumps(k)}: {dumps(v, indent + 1)}" for k, v in document.items()]
        return "{\n" + ",\n".join(parts) + "\n" + pad[1:] + "}"
    return "[\n" + ",\n".join(pad + dumps(v, indent + 1) for v in document) + "\n" + pad[1:] + "]"


def dumps_compact(document: Any) -> str:
    """JSON without spaces; other objects, such as dataclasses, are written as their fields.

    Raises:
        ValueError: if a number is not finite.
    """
    return json.dumps(document, separators=(",", ":"), allow_nan=False, default=vars)


def canonical(document: Any) -> str:
    """The same text for all equal documents, to be hashed or compared.

    Objects that JSON cannot hold are written as their ``str``.

    Raises:
        ValueError: if a number is not finite.
    """
    return json.dumps(document, sort_keys=True, allow_nan=False, default=str)


def loads(text: str) -> Any:
    """Parse a document strictly.

    Raises:
        JsonTextError: if the text has a merge conflict's marker or a repeated key, or is not valid
            JSON, such as a truncated file. It names the line.
    """
    if marker := _CONFLICT.search(text):
        raise JsonTextError(_line(text, marker.start()), "has a merge conflict's marker")
    try:
        document = json.loads(text, parse_constant=_refuse, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        ended = not text[error.pos :].strip() or error.msg.startswith("Unterminated string")
        reason = "ends in the middle" if ended else f"is not JSON ({error.msg.lower()})"
        raise JsonTextError(error.lineno, reason) from None
    except _RepeatError:
        raise _repeat(text) from None
    except ValueError as error:
        word = str(error)
        raise JsonTextError(_line(text, text.find(word)), f"has {word} for a number") from None
    return document


def line_of(text: str, path: Sequence[str | int]) -> int:
    """The line of a key in a valid document, or of its nearest parent that the document has."""
    positions = dict(_keys(text))
    for length in range(len(path), 0, -1):
        if (position := positions.get(tuple(path[:length]))) is not None:
            return _line(text, position)
    return 1


class _RepeatError(Exception):
    pass


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise _RepeatError
    return made


def _repeat(text: str) -> JsonTextError:
    seen = set()
    for path, position in _keys(text):
        if path in seen:
            return JsonTextError(_line(text, position), f"names {path[-1]!r} a second time")
        seen.add(path)
    raise AssertionError("no key is repeated")


def _refuse(word: str) -> None:
    raise ValueError(word)


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, max(position, 0)) + 1


def _keys(text: str) -> Iterator[tuple[tuple[str | int, ...], int]]:
    """The paths and positions of all keys of a valid document's objects, in order."""
    path: list[str | int] = []
    for token in _TOKEN.finditer(text):
        word = token.group()
        if word in "{[":
            path.append("" if word == "{" else 0)
        elif word in "}]":
            path.pop()
        elif word == ",":
            if isinstance(path[-1], int):
                path[-1] += 1
        elif token["key"]:
            path[-1] = json.loads(token["text"])
            yield tuple(path), token.start()
