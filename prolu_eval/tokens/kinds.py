"""The kind of a file: known by its ending or, if that does not tell, by its first characters.

Records are often stored under names such as ``corpus.txt``, or without an ending. If they were read
as prose, their braces and commas would be tokenised too.
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
# The beginning of an object, or of a list of objects, texts or numbers.
_JSON = re.compile(
    rf"\s*(\{{\s*{_STRING}\s*:|\[\s*(\{{\s*{_STRING}\s*:|{_STRING}\s*[,\]]|(\[\s*)?\d+\s*,\s*\d+\s*,))"
)
_NAME = re.compile(r"\w[\w .-]{0,40}")


def ending(path: Path) -> str:
    """The ending that names a file's kind, without the ending of its compression."""
    plain = path.with_suffix("") if path.suffix.lower() in reading.PACKED else path
    return plain.suffix.lower()


def kind_of(path: Path) -> str:
    """The ending that a file has, or the ending that suits its first characters.

    Raises:
        TokensError: if the ending does not tell the kind, and the file cannot be read or is no
            text.
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
    """Whether a first line names columns, among them a column of text or of token ids."""
    first, _, rest = begin.partition("\n")
    for delimiter in DELIMITERS:
        names = [name.strip().strip('"') for name in first.split(delimiter)]
        if len(names) > 1 and all(map(_NAME.fullmatch, names)) and set(names) & set(COLUMNS):
            return rest.partition("\n")[0].count(delimiter) >= len(names) - 1
    return False
