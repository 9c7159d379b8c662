"""What a file holds: told by its ending, and by how it begins where that says nothing.

Records are often kept under names such as ``corpus.txt`` or without an ending; as prose they would
be tokenised with their braces and commas.
"""

import re
from pathlib import Path

from prolu_eval.tokens import reading

JSON_LINES, JSON, TABLES = (".jsonl", ".ndjson"), (".json",), {".csv": ",", ".tsv": "\t"}
PARQUET, IDS = ".parquet", (".npy", ".safetensors")
RECORDS = (*JSON_LINES, *JSON, *TABLES, PARQUET)
PLAIN = ".txt"
TEXTS = (PLAIN, ".md", ".py")
ID_COLUMNS = ("input_ids", "tokens")
COLUMNS = (*ID_COLUMNS, "text", "content")
DELIMITERS = ",;\t|"

_MAGIC = {b"PAR1": PARQUET, b"\x93NUMPY": ".npy"}
_STRING = r'"(?:[^"\\]|\\.)*"'
# An object; or a list of objects, of texts, or of numbers.
_JSON = re.compile(
    rf"\s*(\{{\s*{_STRING}\s*:|\[\s*(\{{\s*{_STRING}\s*:|{_STRING}\s*[,\]]|(\[\s*)?\d+\s*,\s*\d+\s*,))"
)
_NAME = re.compile(r"\w[\w .-]{0,40}")


def ending(path: Path) -> str:
    """The ending that says what is in a file, without that of a packed one."""
    plain = path.with_suffix("") if path.suffix.lower() in reading.PACKED else path
    return plain.suffix.lower()


def kind_of(path: Path) -> str:
    """The ending that a file has, or that it should have by how it begins.

    Raises:
        TokensError: if its ending says nothing and it cannot be read, or is no text.
    """
    said = ending(path)
    if said != PLAIN and said in (*TEXTS, *RECORDS, *IDS):
        return said
    for magic, kind in _MAGIC.items():
        if reading.magic(path).startswith(magic):
            return kind
    begin = next(reading.chunks(path), "")
    if _JSON.match(begin):
        return JSON[0]
    return next(iter(TABLES)) if _is_table(begin) else PLAIN


def _is_table(begin: str) -> bool:
    """Whether a first line names columns, one of them that of the text or the token ids."""
    first, _, rest = begin.partition("\n")
    for delimiter in DELIMITERS:
        names = [name.strip().strip('"') for name in first.split(delimiter)]
        if len(names) > 1 and all(map(_NAME.fullmatch, names)) and set(names) & set(COLUMNS):
            return rest.partition("\n")[0].count(delimiter) >= len(names) - 1
    return False
