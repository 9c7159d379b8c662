"""Token rows to train and evaluate on: from text or token ids, the same for every run.

A source is ``embedded`` (the standard library's source files), a text file (documents separated by
``<|endoftext|>`` where it has that marker), a folder of text files (a document each), token ids in
``.npy`` or ``.safetensors``, or a dataset with a ``text``, ``tokens`` or ``input_ids`` column: a
Parquet file or a folder of them, a folder that ``save_to_disk`` wrote, or a name on the Hugging
Face hub (``owner/name`` or ``owner/name:configuration``), which is streamed. Documents are packed
into rows of equal length, each document begun by the BOS token where the tokenizer has one. A
tenth of the documents, chosen by their content, is held out, so that training and evaluation can
share one source. Rows of a local source are made once and kept in the cache folder
(:mod:`prolu_eval.cache`), named by the source's content, the tokenizer and the options.
"""

from prolu_eval.choices import Packing, Split
from prolu_eval.tokens.rows import TokenRows, load_tokens

__all__ = ["Packing", "Split", "TokenRows", "load_tokens"]
