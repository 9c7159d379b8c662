"""Writes a benchmark as files: its description, its dictionary, and samples for other tools."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save

from prolu_eval.results import write_atomically, write_json
from prolu_eval.synthetic.benchmark import BENCHMARK_FILE, PREFIX, Benchmark
from prolu_eval.synthetic.samples import SyntheticActivations

DICTIONARY_FILE, SAMPLES_FILE = "dictionary.safetensors", "samples.safetensors"
_LENGTH = 128


def write_benchmark(folder: Path, benchmark: Benchmark, n_samples: int) -> Path:
    """Write a benchmark into a folder, so that ``synthetic:FOLDER`` refers to it.

    - ``benchmark.json``: the description, which determines everything else;
    - ``dictionary.safetensors``: ``directions`` [n_features, d_in] and ``bias`` [d_in] float32,
      ``firing_probability`` [n_features] float32, ``parent`` and ``group`` [n_features] int64, -1
      for none;
    - ``samples.safetensors``: held-out samples ``x`` [n, d_in] float32, and the features active in
      them: ``sample`` and ``feature`` int32, ``magnitude`` float32, [n_active] each.

    Raises:
        ResultsError: if the folder cannot be written to.
    """
    name = f"{PREFIX}{folder.resolve()}"
    source = SyntheticActivations(name, benchmark, device="cpu")
    known = source.dictionary
    single = {
        "directions": known.directions,
        "bias": known.bias,
        "firing_probability": known.firing_probability,
    }
    arrays = {key: value.astype(np.float32) for key, value in single.items()}
    write_atomically(
        folder / DICTIONARY_FILE, save({**arrays, "parent": known.parent, "group": known.group})
    )
    if n_samples:
        drawn = source.samples(source.rows("heldout", n_samples, min(_LENGTH, n_samples)).ids)
        sample, feature = np.nonzero(drawn.magnitudes.numpy())
        content = {
            "x": drawn.x.numpy(),
            "sample": sample.astype(np.int32),
            "feature": feature.astype(np.int32),
            "magnitude": drawn.magnitudes.numpy()[sample, feature],
        }
        write_atomically(folder / SAMPLES_FILE, save(content))
    write_json(folder / BENCHMARK_FILE, benchmark.model_dump())
    return folder
