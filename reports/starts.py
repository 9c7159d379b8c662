"""Which training settings decide how many of ProLU's encoder biases are negative?

    python reports/starts.py reports/sweeps/embedded.toml NAME --out FOLDER

changes one setting at a time, trains the two ProLU sweeps of a file at a few coefficients with it,
evaluates them, and writes ``reports/results/starts-NAME.csv``, from which `reproduction.py` makes a
table.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from prolu_eval import EvaluationOptions, evaluate, load_results, train
from prolu_eval.learning_rates import evenly_chosen
from prolu_eval.training import SweepFile, read_sweep_file
from prolu_eval.training.config import Shared

RESULTS = Path(__file__).parent / "results"
# The changes that each makes to the settings that all runs share.
SETTINGS: dict[str, Callable[[Shared], dict[str, Any]]] = {
    "as the sweeps": lambda shared: {},
    "biases uniform": lambda shared: {"b_enc_init": "uniform"},
    "biases +1": lambda shared: {"b_enc_init": 1.0},
    "biases -1": lambda shared: {"b_enc_init": -1.0},
    "dead resampled": lambda shared: {"resample_every": 200, "dead_after": 50_000},
    "dictionary x4": lambda shared: {
        "d_sae": shared.d_sae and 4 * shared.d_sae,
        "expansion": shared.expansion and 4 * shared.expansion,
    },
    "tokens x4": lambda shared: {"n_tokens": 4 * shared.n_tokens},
    "layer_norm": lambda shared: {"normalisation": "layer_norm"},
}
COLUMNS = ("setting", "label", "coefficient", "l0", "ce_degradation", "dead_fraction",
           "bias_negative_fraction")  # fmt: skip


def under(grid: SweepFile, name: str) -> SweepFile:
    """A grid with the changes of a setting."""
    changed = grid.shared.model_copy(update=SETTINGS[name](grid.shared))
    return grid.model_copy(update={"shared": changed})


def prolu_sweeps(file: SweepFile, n_coefficients: int = 3) -> SweepFile:
    """The two ProLU sweeps of a file, at a few coefficients and with its first seed."""
    chosen = []
    for sweep in file.sweep:
        if sweep.variant == "prolu" and sweep.options.get("gradient") in ("relu", "ste"):
            values = evenly_chosen(sweep.coefficients, n_coefficients)
            update = {"coefficients": values, "seeds": file.within.seeds[:1]}
            chosen.append(sweep.model_copy(update=update))
    return file.model_copy(update={"sweep": chosen})


def write_rows(folders: Mapping[str, Path], name: str) -> None:
    """Write the table's numbers from the results in each setting's folder."""
    tables = [load_results(folder).assign(setting=setting) for setting, folder in folders.items()]
    rows = pd.concat(tables)[list(COLUMNS)]
    rows.to_csv(RESULTS / f"starts-{name}.csv", index=False, float_format="%.5g")


def main() -> None:
    """Train and evaluate runs that the folder does not have, and write the table's numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("name")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    options = parser.parse_args()
    grid = prolu_sweeps(read_sweep_file(options.sweep))
    folders = {name: options.out / name.replace(" ", "-") for name in SETTINGS}
    for name, folder in folders.items():
        train(under(grid, name), folder)
        evaluate(folder, EvaluationOptions(n_tokens=32_768))
    write_rows(folders, options.name)


if __name__ == "__main__":
    main()
