"""The write-up's experiment on SmolLM2-135M, one stage at a time.

    python reports/prepare_smollm2.py FOLDER         # the model and 40 MB of text
    python reports/smollm2.py FOLDER rates           # learning rates, and coefficients by L0
    python reports/smollm2.py FOLDER main quarter    # ... any of the stages below, in this order
    python reports/smollm2.py FOLDER collect         # into reports/results
    python reports/reproduction.py tables smollm2    # tables and figures

Runs are written to FOLDER/runs/STAGE. Existing runs and results are kept, so that a stage continues
where it was interrupted. ``--train-tokens`` trains longer or shorter; ``--short`` runs everything
with few tokens, few values and one seed, into FOLDER/short.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from collected import collect
from starts import SETTINGS, under, write_rows

from prolu_eval import EvaluationOptions, evaluate, load_results, train
from prolu_eval.json_text import loads
from prolu_eval.learning_rates import find_learning_rates
from prolu_eval.results import write_json
from prolu_eval.target_l0 import label_of
from prolu_eval.training import Settings, SweepFile, read_sweep_file
from prolu_eval.training.config import Sweep

HERE = Path(__file__).parent
RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)
LARGER_RATES = (4e-3, 8e-3, 1.6e-2)
# Settings of the small stages, which one core of a CPU trains: a quarter of the features, and 400
# steps of an eighth of the activations each.
SMALL = {"n_tokens": 102_400, "d_sae": 1152, "batch_size": 256, "buffer_size": 32_768}
SMALL_CHARACTERS = 560_000  # of the text
SMALL_EVALUATED = 2048  # tokens
MLP_OUT = "blocks.12.hook_mlp_out"
_FOUR = ("relu+l1", "relu+sqrt_l1", "prolu/relu+l1", "prolu/ste+l1")


@dataclass(frozen=True)
class Chosen:
    """What short runs found for a variant: its learning rate, and values for the levels of L0.

    ``table`` has the learning rate, value, L0 and CE degradation of each short run.
    """

    rate: float
    values: list[float]
    table: list[list[float]]


@dataclass(frozen=True)
class Experiment:
    """The experiment in a folder.

    Attributes:
        folder: the folder with the model and the text.
        settings: how runs are trained.
        dtype: the precision of evaluations.
        n_evaluated: the number of tokens that every run is evaluated on.
        n_trained: the number of tokens that the main runs are trained on; None for the file's.
        short: whether everything is done with few tokens and values.
    """

    folder: Path
    settings: Settings
    dtype: str
    n_evaluated: int
    n_trained: int | None
    short: bool

    @property
    def place(self) -> Path:
        """The folder of the runs."""
        return self.folder / ("short" if self.short else "runs")

    @property
    def levels(self) -> list[float]:
        """The values of L0 for which coefficients are chosen."""
        return [float(level) for level in np.geomspace(8, 160, 8)]

    def base(self, **shared: Any) -> SweepFile:
        """The grid of the sweep file, with the folder's model and text."""
        file = read_sweep_file(
            HERE / "sweeps" / "smollm2.toml",
            model=str(self.folder / "smollm2-135m"),
            dataset=str(self.folder / "natural.txt"),
        )
        few: dict[str, Any] = {}
        if self.short:  # a buffer is filled before the first step
            few = {"n_tokens": 200_000, "d_sae": 1152, "buffer_size": 65_536}
        if self.n_trained is not None and not self.short:
            few["n_tokens"] = self.n_trained
        changed = few | shared
        sweeps = file.sweep
        if "d_sae" in changed:
            changed["expansion"] = None
            sweeps = [resized(sweep, changed["d_sae"]) for sweep in sweeps]
        settings = file.shared.model_copy(update=changed)
        return file.model_copy(update={"shared": settings, "sweep": sweeps})

    @property
    def longer(self) -> int:
        """The number of training tokens in the stages that train longer than the main one."""
        return self.base().shared.n_tokens * 8 // 5

    def do(self, stage: str, grid: SweepFile) -> None:
        """Train and evaluate a grid in the stage's folder."""
        out = self.place / stage
        begun = time.monotonic()
        n = len(train(grid, out, self.settings))
        trained = time.monotonic()
        options = EvaluationOptions(
            n_tokens=self.n_evaluated, dtype=self.dtype, device=self.settings.device
        )
        failed = [o for o in evaluate(out, options, progress=True) if o.error is not None]
        for outcome in failed:
            print(f"{outcome.name}: {outcome.error}")
        ended = time.monotonic()
        print(f"{stage}: {n} runs trained in {trained - begun:.0f} s, measured in "
              f"{ended - trained:.0f} s", flush=True)  # fmt: skip
        results = load_results(out)
        for label, rows in results.groupby("label"):
            shown = ", ".join(f"{l0:.1f}/{ce:.4f}" for l0, ce in
                              zip(rows["l0"], rows["ce_degradation"], strict=True))  # fmt: skip
            print(f"  {label}: {shown}", flush=True)

    @property
    def chosen(self) -> dict[str, Chosen]:
        """What the stage ``rates`` found."""
        path = self.place / "chosen.json"
        if not path.exists():  # use the stored choice
            path = HERE / "results" / "smollm2-chosen.json"
        found = loads(path.read_text(encoding="utf-8"))
        return {label: Chosen(**values) for label, values in found.items()}

    def choose_rates(self) -> None:
        """Choose learning rates, and coefficients for the levels of L0."""
        grid, out = self.base(), self.place / "rates"
        rates = RATES[1::2] if self.short else RATES
        found = find_learning_rates(grid, out, self.settings, rates=rates, share=0.8)
        results = load_results(out)
        chosen = {}
        for variant in found:
            rows = results[results["label"] == variant.label]
            kind = "k" if rows["coefficient"].isna().all() else "coefficient"
            value = rows["l0"] if kind == "k" else rows["coefficient"]
            table = sorted(zip(rows["learning_rate"], value, rows["l0"], rows["ce_degradation"],
                               strict=True))  # fmt: skip
            best = rows["learning_rate"] == variant.best
            values = self.levels
            if kind == "coefficient":
                values = placed_at(rows[best]["coefficient"], rows[best]["l0"], self.levels)
            else:
                values = [float(round(level)) for level in self.levels]
            chosen[variant.label] = asdict(Chosen(variant.best, values, table))
            ranked = ", ".join(f"{t.rate:g}{'=' if t.is_tied else ''}" for t in variant.tried)
            print(f"{variant.label}: {ranked}; values {values}", flush=True)
        write_json(self.place / "chosen.json", chosen)

    def sweeps(self, labels: tuple[str, ...] | None = None, step: int = 1) -> list[Sweep]:
        """The file's sweeps with their chosen rates, and every ``step``-th of the chosen values."""
        grid, chosen = self.base(), self.chosen
        found = []
        for sweep in grid.sweep:
            label = label_of(sweep, grid)
            if labels is not None and label not in labels:
                continue
            one = chosen[label]
            kind = "k" if sweep.k else "coefficients"
            update = {kind: one.values[::step], "learning_rates": [one.rate]}
            found.append(sweep.model_copy(update=update))
        return found

    def small(self, *labels: str) -> SweepFile:
        """Sweeps at few values, on the beginning of the text and of the size of small stages."""
        text = self.folder / "natural-small.txt"
        if not text.exists():
            whole = (self.folder / "natural.txt").read_text(encoding="utf-8")
            text.write_text(whole[:SMALL_CHARACTERS], encoding="utf-8")
        return self.grid(self.sweeps(labels, step=3), dataset=str(text), **SMALL)

    @property
    def reusing(self) -> "Experiment":
        """The experiment of small stages, which share the model's activations."""
        settings = replace(self.settings, cache=self.place / "activations")
        return replace(self, settings=settings, n_evaluated=SMALL_EVALUATED)

    def grid(self, sweeps: list[Sweep], seeds: tuple[int, ...] = (0,), **shared: Any) -> SweepFile:
        """A grid of sweeps."""
        file = self.base(**shared)
        within = file.within.model_copy(update={"seeds": list(seeds)})
        return file.model_copy(update={"sweep": sweeps, "within": within})

    def main(self) -> None:
        """The write-up's four sweeps."""
        seeds = (0,) if self.short else (0, 1, 2)
        self.do("main", self.grid(self.sweeps(_FOUR, step=3 if self.short else 1), seeds))

    def quarter(self) -> None:
        """The four sweeps on a quarter of the tokens, where the learning rate falls at the end."""
        whole = self.base().shared.n_tokens
        self.do("quarter", self.grid(self.sweeps(_FOUR), n_tokens=whole // 4))

    def others(self) -> None:
        """Other variants at similar L0, on 1.6 times the tokens."""
        rest = tuple(label for label in self.chosen if label not in _FOUR)
        step = 1 if self.short else 2
        self.do("others", self.grid(self.sweeps(rest, step), n_tokens=self.longer))

    def ablations(self) -> None:
        """ProLU_STE with other gradients, estimators and forms, at its own rate."""
        (ste,) = self.sweeps(("prolu/ste+l1",), step=3)
        made = [
            ste.model_copy(update={"options": options})
            for options in (
                {"gradient": "ste_bias_only"},
                {"gradient": "ste_input_only"},
                {"estimator": "rectangle", "bandwidth": 1.0},
                {"estimator": "triangle", "bandwidth": 1.0},
            )
        ]
        made.append(
            ste.model_copy(update={"variant": "prolu_relu_hybrid", "options": {"gradient": "ste"}})
        )
        made.append(ste.model_copy(update={"variant": "trec", "options": {"theta": 1.0}}))
        (relu,) = self.sweeps(("relu+l1",), step=3)
        made.append(relu.model_copy(update={"options": {"gradient": "ste"}}))
        self.do("main", self.grid(made))

    def starts(self) -> None:
        """The settings of reports/starts.py that may lead to positive biases."""
        grid = self.grid(self.sweeps(("prolu/relu+l1", "prolu/ste+l1"), step=3))
        for name in SETTINGS:
            self.do(f"starts/{name}", under(grid, name))
        write_rows({name: self.place / "starts" / name for name in SETTINGS}, "smollm2")

    def larger_rates(self) -> None:
        """Learning rates beyond those of the stage ``rates``, for the four sweeps; small runs."""
        found = find_learning_rates(
            self.small(*_FOUR), self.place / "larger-rates", self.reusing.settings,
            rates=LARGER_RATES, share=1, n_tokens=SMALL_EVALUATED,
        )  # fmt: skip
        for variant in found:
            print(variant.label, *(f"{t.rate:g}{'=' if t.is_tied else ''}" for t in variant.tried))

    def biases(self) -> None:
        """ProLU_STE from biases of 0, +1 and -1, in small runs."""
        names = ("as the sweeps", "biases +1", "biases -1")
        for name in names:
            self.reusing.do(f"biases/{name}", under(self.small("prolu/ste+l1"), name))
        write_rows({name: self.place / "biases" / name for name in names}, "smollm2-small")

    def mlp(self) -> None:
        """The four sweeps on the output of the same block's MLP, on 1.6 times the tokens."""
        sweeps = self.sweeps(_FOUR, step=2)
        self.do("mlp", self.grid(sweeps, hook=MLP_OUT, n_tokens=self.longer))

    def collect(self) -> None:
        """Store the results of every stage in three files, except those that are in a table."""
        into = self.place / "collected" if self.short else HERE / "results"
        into.mkdir(parents=True, exist_ok=True)
        source = {"model": "SmolLM2-135M", "tokens": "natural text"}
        if (chosen := self.place / "chosen.json").exists():
            (into / "smollm2-chosen.json").write_bytes(chosen.read_bytes())
        for folder in sorted({p.parents[1] for p in self.place.glob("*/*/history.safetensors")}):
            name = "smollm2" if folder.name == "main" else f"smollm2-{folder.name}"
            collect(folder, into / name, source)


def resized(sweep: Sweep, d_sae: int) -> Sweep:
    """A sweep whose groups of features, if it has any, add up to another dictionary size."""
    sizes = sweep.options.get("group_sizes")
    if sizes is None:
        return sweep
    ends = [round(d_sae * end / sum(sizes)) for end in np.cumsum(sizes)]
    options = sweep.options | {"group_sizes": np.diff([0, *ends]).tolist()}
    return sweep.model_copy(update={"options": options})


def placed_at(
    coefficients: Iterable[float], l0: Iterable[float], levels: Sequence[float]
) -> list[float]:
    """The coefficients that lead to given L0, interpolated between measured ones on log axes.

    Beyond the measured ones, the straight line fitted to all of them is used, up to four times the
    largest coefficient and down to a quarter of the smallest.
    """
    order = np.argsort([*coefficients])
    x = np.log(np.asarray([*coefficients], float)[order])
    # L0 falls with the coefficient; where it does not, the short runs were too short to show it.
    y = np.minimum.accumulate(np.log(np.maximum([*l0], 0.1))[order])
    slope = min(np.polyfit(x, y, 1)[0], -0.2)
    wanted = np.log(levels)
    found = np.interp(wanted, y[::-1], x[::-1])
    found += np.where(wanted > y[0], (wanted - y[0]) / slope, 0)
    found += np.where(wanted < y[-1], (wanted - y[-1]) / slope, 0)
    limits = x[0] - np.log(4), x[-1] + np.log(4)
    return sorted(float(f"{value:.3g}") for value in np.exp(np.clip(found, *limits)))


STAGES: dict[str, Callable[[Experiment], None]] = {
    "rates": Experiment.choose_rates,
    "main": Experiment.main,
    "quarter": Experiment.quarter,
    "others": Experiment.others,
    "ablations": Experiment.ablations,
    "starts": Experiment.starts,
    "mlp": Experiment.mlp,
    "larger_rates": Experiment.larger_rates,
    "biases": Experiment.biases,
    "collect": Experiment.collect,
}


def main() -> None:
    """Run the stages that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("stages", nargs="+", choices=STAGES)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--device")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--train-tokens", type=int, help="tokens to train the main runs on")
    parser.add_argument("--n-tokens", type=int, default=65_536, help="tokens to evaluate runs on")
    options = parser.parse_args()
    experiment = Experiment(
        options.folder.resolve(),
        Settings(device=options.device, progress=True),
        options.dtype,
        min(options.n_tokens, 8192) if options.short else options.n_tokens,
        options.train_tokens,
        options.short,
    )
    for stage in options.stages:
        STAGES[stage](experiment)


if __name__ == "__main__":
    main()
