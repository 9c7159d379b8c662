"""Token rows to train and evaluate on: from text or token ids, the same for every run.

A source is one of these:

- ``embedded``, the standard library's source files;
- a text file, UTF-8, its documents separated by ``<|endoftext|>`` where it has that marker;
- JSON lines, a JSON list, CSV or TSV whose first line names the columns, or Parquet, with a column
  of text or of token ids;
- any of these, compressed (gz, zst, bz2, xz);
- a folder of such files: the kind of file that holds most of its bytes is read, and documents never
  run on from one text file into the next;
- token ids in ``.npy`` or ``.safetensors`` (with or without an ``attention_mask``), one document
  [n] or rows [rows, T];
- a dataset: a folder that ``save_to_disk`` wrote, or a name on the Hugging Face hub (``owner/name``
  or ``owner/name:configuration``), which is streamed.

The column is the one that the caller names, or else ``input_ids``, ``tokens``, ``text`` or
``content``.
Documents are packed into rows of equal length. Each row begins with the BOS token if the tokenizer
has one. Token ids that come in rows of one length stay in these rows: no BOS token is added, and
padding does not count (:mod:`prolu_eval.tokens.token_ids`). A fixed rule holds out a tenth of the
source, so that training and evaluation can share the source (:mod:`prolu_eval.tokens.pieces`).
Rows packed from a local source are computed once and kept in the cache folder
(:mod:`prolu_eval.cache`), in a file named by the source's content, the tokenizer and the options.
"""

from prolu_eval.choices import Packing, Split
from prolu_eval.tokens.rows import TokenRows, load_tokens
from prolu_eval.tokens.sources import check_source
from prolu_eval.tokens.vocabulary import check_vocabulary, warn_of_foreign_ids

__all__ = [
    "Packing",
    "Split",
    "TokenRows",
    "check_source",
    "check_vocabulary",
    "load_tokens",
    "warn_of_foreign_ids",
]
