"""Stored results: plain data that evaluation writes and analysis reads, without torch or a model.

A result is two files named by its fingerprint: ``<fingerprint>.json`` (scalars, and where they come
from) and ``<fingerprint>.safetensors`` (per-sequence sums, per-feature arrays). They are stored in
the folder ``evaluation/`` of the run, or below a results folder that has a folder for each run.
"""

from prolu_eval.estimates import Estimate
from prolu_eval.results.arrays import Array, StoredArrays
from prolu_eval.results.documents import (
    EXAMPLE,
    NOT_COMPARED,
    OF_SEQUENCES,
    OF_TASK_ERROR,
    PER_FEATURE,
    PER_LAYER,
    PER_SEQUENCE,
    PER_TASK,
    RESPONSE,
    SCHEMA_VERSION,
    TRUTH,
    Dropped,
    Result,
    RunSummary,
    Setting,
    TaskSet,
)
from prolu_eval.results.examples import Example, Examples
from prolu_eval.results.files import (
    check_writable,
    file_digests,
    replacing,
    write_atomically,
    write_json,
)
from prolu_eval.results.select import (
    Evaluation,
    Selection,
    prefix_label_with_folder,
    prefix_label_with_release,
    prefix_names_with_folder,
    select,
    titles,
)
from prolu_eval.results.store import (
    FOLDER,
    outdated,
    read_result,
    result_files,
    with_current_path,
    write_result,
    write_scalars,
)
from prolu_eval.results.table import frame, load_results

Scalar = Estimate  # the name of Estimate in version 0.1.0

__all__ = [
    "EXAMPLE",
    "FOLDER",
    "NOT_COMPARED",
    "OF_SEQUENCES",
    "OF_TASK_ERROR",
    "PER_FEATURE",
    "PER_LAYER",
    "PER_SEQUENCE",
    "PER_TASK",
    "RESPONSE",
    "SCHEMA_VERSION",
    "TRUTH",
    "Array",
    "Dropped",
    "Evaluation",
    "Example",
    "Examples",
    "Result",
    "RunSummary",
    "Scalar",
    "Selection",
    "Setting",
    "StoredArrays",
    "TaskSet",
    "check_writable",
    "file_digests",
    "frame",
    "load_results",
    "outdated",
    "prefix_label_with_folder",
    "prefix_label_with_release",
    "prefix_names_with_folder",
    "read_result",
    "replacing",
    "result_files",
    "select",
    "titles",
    "with_current_path",
    "write_atomically",
    "write_json",
    "write_result",
    "write_scalars",
]
