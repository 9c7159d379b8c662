"""Token rows to train and evaluate on: from text or token ids, the same for every run.

A source is one of these:

- ``embedded``, the standard library's source files;
- a text file, UTF-8, its documents separated by ``<|endoftext|>`` where it has that marker;
- JSON lines, a JSON list, CSV or TSV whose first line names the columns, or Parquet, with a column
  of text or of token ids;
- any of these packed (gz, zst, bz2, xz), or a folder of them, of which the kind
  that most bytes are in is read, each text file a document of its own or several;
- token ids in ``.npy`` or ``.safetensors`` (beside an ``attention_mask``), one document [n] or rows
  [rows, T];
- a dataset: a folder that ``save_to_disk`` wrote, or a name on the Hugging Face hub (``owner/name``
  or ``owner/name:configuration``), which is streamed.

The column is the one that is named, or ``input_ids``, ``tokens``, ``text`` or ``content``.
Documents are packed into rows of equal length, each begun by the BOS token where the tokenizer has
one. Token ids that come in rows of one length stay rows, with their own BOS tokens or none, and
their padding is left out (:mod:`prolu_eval.tokens.token_ids`). A tenth of the source is held out by
a fixed rule, so that training and evaluation can share it (:mod:`prolu_eval.tokens.pieces`). Rows
that are packed from a local source are made once and kept in the cache folder
(:mod:`prolu_eval.cache`), named by the source's content, the tokenizer and the options.
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
