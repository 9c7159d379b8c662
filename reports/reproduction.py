"""Tables and figures that test the write-up's claims.

    python reports/reproduction.py collect RUNS NAME --model MODEL   # after `prolu-eval evaluate`
    python reports/reproduction.py tables NAME ...                   # needs only reports/results

``tables`` writes ``tables-NAME.md`` and figures for every collected result; README.md quotes the
tables.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from collected import BIAS_EDGES, BIASES, TOKENS, collect, read
from drawing import svg
from numpy.typing import NDArray
from scipy.stats import spearmanr, t
from seeds import COLUMNS as INSIDE
from seeds import cells, in_common, third_seeds

from prolu_eval.analysis import Frontier, Replicates, comparable, group_frontier, resample
from prolu_eval.analysis.bootstrap import degrees_of_freedom, interval, over_seeds
from prolu_eval.analysis.curves import Lines
from prolu_eval.analysis.groups import Group, rows_by_range
from prolu_eval.analysis.pareto import signs
from prolu_eval.analysis.statement import amount
from prolu_eval.learning_rates import TriedRate, rank_learning_rates
from prolu_eval.metrics import METRICS
from prolu_eval.results import Result

HERE = Path(__file__).parent
RESULTS = HERE / "results"
MAIN = ("relu+l1", "relu+sqrt_l1", "prolu/relu+l1", "prolu/ste+l1")
LEVELS = (5.0, 10.0, 15.0, 25.0, 40.0, 60.0)
# Models with runs above this L0 are compared at LARGER_LEVELS.
LARGEST = 120.0
LARGER_LEVELS = (10.0, 15.0, 25.0, 40.0, 60.0, 100.0, 150.0)
SPLIT = 25.0
PLOTS = (("l0", "ce_degradation"), ("l1", "mse"), ("l0", "l1"), ("sqrt_l1", "mse"),
         ("l0", "sqrt_l1"))  # fmt: skip
KEYS = ("l0", "l1", "sqrt_l1", "mse", "ce_degradation", "relative_reconstruction_bias")

Array = NDArray[np.float64]
Cells = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Collected:
    """One model's runs: their group, its replicates, and training histories by run's name."""

    name: str
    group: Group
    replicates: Replicates
    histories: dict[str, dict[str, list[float]]]

    @classmethod
    def read(cls, name: str) -> "Collected":
        """Read the results that were collected under a name."""
        return cls.of(name, *read(RESULTS / name))

    @classmethod
    def of(
        cls, name: str, results: Sequence[Result], histories: dict[str, dict[str, list[float]]]
    ) -> "Collected":
        """The group of results, all of which must be comparable."""
        (group,) = comparable(results)
        replicates = resample(group, KEYS)
        if replicates is None:
            raise SystemExit(f"{name}: holds no per-sequence sums")
        return cls(name, group, replicates, histories)

    def of_seed(self, seed: int) -> "Collected":
        """The runs of one seed."""
        chosen = [result for result in self.group.results if result.run.seed == seed]
        return Collected.of(self.name, chosen, self.histories)

    @property
    def levels(self) -> tuple[float, ...]:
        """The values of L0 at which variants are compared."""
        return LEVELS if float(self.group.table["l0"].max()) < LARGEST else LARGER_LEVELS

    def part(self, labels: Sequence[str]) -> tuple[Group, Replicates]:
        """The runs of the given variants, and their replicates."""
        rows = np.flatnonzero(self.group.table["label"].isin(labels))
        return self.group.subset(rows), self.replicates.subset(rows)

    def rows(self, label: str) -> list[dict[str, Any]]:
        """A variant's runs, as rows of the table."""
        records = self.group.table.to_dict("records")
        return [{str(k): v for k, v in row.items()} for row in records if row["label"] == label]


def frontiers(data: Collected, x: str, y: str, labels: Sequence[str]) -> Frontier:
    """The frontier of the given variants."""
    group, replicates = data.part(labels)
    return group_frontier(group, x, y, replicates=replicates)


def at_levels(data: Collected, label: str, y: str, levels: Sequence[float]) -> tuple[Array, Array]:
    """A variant's metric at levels of L0, measured [n_levels] and in every replicate.

    It is read along straight lines on logarithmic axes, which join neighbouring configurations (as
    means over seeds) that are nondominated in (L0, CE degradation). Beyond them it is NaN.
    """
    group, replicates = data.part([label])
    keys = ("l0", "ce_degradation", y)
    runs = group.table[list(keys)].to_numpy(float) * np.array([*signs(keys[:2]), 1])
    rng = np.random.default_rng(0)
    everything = np.concatenate([
        over_seeds(group, runs[None], None),
        over_seeds(group, np.stack([replicates.values[key] for key in keys], -1), rng),
    ])  # fmt: skip
    corners = Lines.through(np.log(everything[:1, :, :2])).measured[:, 0]
    chosen = np.isin(np.log(everything[0, :, 0]), corners)
    lines = np.log(everything[:, chosen][..., [0, 2]])
    wanted = np.log(np.asarray(levels))
    found = []
    for line in lines:
        order = np.argsort(line[:, 0])
        found.append(np.exp(np.interp(wanted, *line[order].T, left=np.nan, right=np.nan)))
    return found[0], np.array(found[1:])


def table(head: Sequence[str], rows: Cells) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines) + "\n"


def shown(value: float | None, ci: tuple[float | None, float | None], scale: float = 1) -> str:
    """A number with its interval."""
    if value is None or not np.isfinite(value):
        return "-"
    low, high = ci
    around = "" if low is None or high is None else f" [{scale * low:.3g}, {scale * high:.3g}]"
    return f"{scale * value:.3g}{around}"


def level_cells(data: Collected, label: str, y: str, levels: Sequence[float]) -> list[str]:
    """A variant's metric at levels of L0, with intervals, as cells of a table."""
    measured, replicated = at_levels(data, label, y, levels)
    group, replicates = data.part([label])
    freedom = degrees_of_freedom(group, replicates.n_sequences)
    return [
        shown(value, interval(value, column, freedom).ci95)
        for value, column in zip(measured, replicated.T, strict=True)
    ]


def level_table(data: Collected, labels: Sequence[str], y: str) -> str:
    """A metric of several variants at levels of L0, with intervals."""
    rows = [[label, *level_cells(data, label, y, data.levels)] for label in labels]
    return table([f"{METRICS[y].title} at L0 =", *(f"{level:g}" for level in data.levels)], rows)


def savings_table(data: Collected, first: str, others: Sequence[str], labels: Sequence[str]) -> str:
    """How much less CE degradation a variant has at equal L0: over all L0, below 25 and above."""
    parts = {"all L0": frontiers(data, "l0", "ce_degradation", labels)}
    group, replicates = data.part(labels)
    for title, rows_of in rows_by_range(group, {"l0": [SPLIT]}).items():
        parts[title] = group_frontier(
            group.subset(rows_of), "l0", "ce_degradation", replicates=replicates.subset(rows_of)
        )
    rows = []
    for other in others:
        cells = []
        for answer in parts.values():
            amounts = [s for s in answer.savings if (s.first, s.second, s.metric)
                       == (first, other, "ce_degradation")]  # fmt: skip
            span = amounts[0].range if amounts else None
            where = "" if span is None else f" (L0 {span[0]:.3g} to {span[1]:.3g})"
            cells.append(
                shown(amounts[0].amount.value, amounts[0].amount.ci95, 100) + where
                if amounts
                else "-"
            )
        rows.append([other, *cells])
    return table([f"{first}, % less CE degradation than", *parts], rows)


def leads_table(data: Collected, x: str, y: str, labels: Sequence[str]) -> str:
    """Where one variant's frontier is ahead of another's, at 95 % for all pairs and places."""
    rows = []
    for lead in frontiers(data, x, y, labels).leads:
        spans = [
            ", ".join(f"{a:.3g} to {b:.3g}" for a, b in part) or "nowhere"
            for part in (lead.first_ahead, lead.second_ahead)
        ]
        common = "-" if lead.range is None else "{:.3g} to {:.3g}".format(*lead.range)
        rows.append([lead.first, lead.second, common, *spans])
    title = METRICS[x].title
    return table(["first", "second", f"common range of {title}", "first ahead", "second ahead"],
                 rows)  # fmt: skip


def presence_table(data: Collected, x: str, y: str, labels: Sequence[str]) -> str:
    """Which variants are on the frontier over two metrics, in each fifth of its range."""
    group, replicates = data.part(labels)
    answer = group_frontier(group, x, y, replicates=replicates)
    runs = group.table.set_index("name").loc[answer.frontier]
    edges = np.geomspace(runs[x].min(), runs[x].max() * (1 + 1e-9), 6)
    rows = []
    for low, high in pairwise(edges):
        inside = runs[(runs[x] >= low) & (runs[x] < high)]
        counts = inside["label"].value_counts()
        held = ", ".join(f"{label}: {count}" for label, count in counts.items())
        rows.append([f"{low:.3g} to {high:.3g}", held or "no run"])
    return table([METRICS[x].title, "runs on the frontier"], rows)


def bias_table(data: Collected, labels: Sequence[str]) -> str:
    """The fraction of negative encoder biases, and how it depends on the coefficient."""
    rows = []
    for label in labels:
        runs = data.rows(label)
        fractions = np.array([row["bias_negative_fraction"] for row in runs], float)
        if np.isnan(fractions).all():
            continue
        coefficients = [row["coefficient"] for row in runs]
        by = defaultdict(list)
        for coefficient, fraction in zip(coefficients, fractions, strict=True):
            by[coefficient].append(fraction)
        first, *_, last = sorted(by)
        varies = np.ptp(fractions) > 0
        rho = f"{spearmanr(coefficients, fractions).statistic:+.2f}" if varies else "-"
        inside = np.mean((fractions >= 0.8) & (fractions <= 0.99))
        rows.append([
            label, f"{fractions.min():.3f}", f"{np.median(fractions):.3f}",
            f"{fractions.max():.3f}", f"{mean(by[first]):.3f}", f"{mean(by[last]):.3f}", rho,
            f"{100 * inside:.0f} %",
        ])  # fmt: skip
    head = ["variant", "least", "median", "most", "at the smallest coefficient",
            "at the largest", "rank correlation with the coefficient",
            "runs within 80 to 99 %"]  # fmt: skip
    return table(head, rows)


def bias_course_table(data: Collected, labels: Sequence[str]) -> str:
    """The fraction of negative biases during training, as the mean over a variant's runs."""
    rows = []
    for label in labels:
        courses = [data.histories[row["name"]].get("bias_negative_fraction") for row in
                   data.rows(label)]  # fmt: skip
        known = np.array([course for course in courses if course])
        if len(known):
            rows.append([label, *(f"{value:.3f}" for value in known.mean(0))])
    return table(["variant, share of training done", *(f"{10 * i} %" for i in range(11))], rows)


def gradient_table(path: Path) -> str:
    """Cosines of projected steps with the step that most reduces L0, and real changes.

    Each run's values are first averaged over the steps of a phase; intervals are over runs (t).
    """
    cells: dict[tuple[str, str], dict[tuple[str, str], list[dict[str, float]]]] = {}
    with path.open() as file:
        rows = list(csv.DictReader(file))
    last = max(int(row["step"]) for row in rows)
    for row in rows:
        share = int(row["step"]) / last
        phase = "start" if share == 0 else "first third" if share <= 1 / 3 else "later"
        run = (row["coefficient"], row["seed"])
        values = {k: float(row[k]) for k in ("cosine", "l0_change", "mse_change")}
        cells.setdefault((phase, row["gradient"]), {}).setdefault(run, []).append(values)
    out = []
    for (phase, gradient), runs in sorted(cells.items(), key=lambda item: _PHASES[item[0][0]]):
        columns = []
        for key, scale in (("cosine", 1), ("l0_change", 100), ("mse_change", 100)):
            means = np.array([mean(v[key] for v in values) for values in runs.values()])
            columns.append(shown(*_t_interval(means), scale))
        out.append([phase, gradient, str(len(runs)), *columns])
    return table(["phase", "gradient", "runs", "cosine with the step to less L0",
                  "change of L0, %", "change of squared error, %"], out)  # fmt: skip


_PHASES = {"start": 0, "first third": 1, "later": 2}


def gradient_difference_table(path: Path) -> str:
    """Differences between gradients in the cosine and in the real change of L0, paired by run.

    Each run's values are first averaged over its steps after the first.
    """
    found: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            if int(row["step"]) > 0:
                run = found.setdefault((row["coefficient"], row["seed"]), {})
                for key, scale in (("cosine", 1), ("l0_change", 100)):
                    run.setdefault((row["gradient"], key), []).append(scale * float(row[key]))
    pairs = [("ste", "exact"), ("relu", "exact"), ("ste", "relu")]
    out = []
    for coefficient in (*sorted({run[0] for run in found}, key=float), "all"):
        runs = [v for run, v in found.items() if coefficient in (run[0], "all")]
        cells = []
        for key in ("cosine", "l0_change"):
            for one, other in pairs:
                gaps = np.array([mean(v[one, key]) - mean(v[other, key]) for v in runs])
                cells.append(shown(*_t_interval(gaps)))
        out.append([coefficient, str(len(runs)), *cells])
    names = [f"{one} less {other}" for one, other in pairs]
    head = [*(f"cosine: {name}" for name in names), *(f"change of L0, %: {name}" for name in names)]
    return table(["coefficient", "runs", *head], out)


def _t_interval(values: Array) -> tuple[float, tuple[float | None, float | None]]:
    centre = float(values.mean())
    if len(values) < 2:
        return centre, (None, None)
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return centre, (centre - half, centre + half)


def logged_gradients_table(data: Collected, labels: Sequence[str]) -> str:
    """Synthetic compared with exact gradients, as logged after the first tenth of training."""
    rows = []
    for label in labels:
        histories = [data.histories[row["name"]] for row in data.rows(label)]
        if "gradient_cosine_W_enc" not in histories[0]:
            continue
        cosines = [mean(h["gradient_cosine_W_enc"][1:]) for h in histories]
        ratios = [
            mean(a / b for a, b in zip(h["gradient_norm_W_enc"][1:],
                                       h["exact_gradient_norm_W_enc"][1:], strict=True))
            for h in histories
        ]  # fmt: skip
        rows.append([label, f"{min(cosines):.2f} to {max(cosines):.2f}",
                     f"{min(ratios):.2f} to {max(ratios):.2f}"])  # fmt: skip
    return table(["variant", "cosine of W_enc's synthetic and exact gradient",
                  "norm, synthetic over exact"], rows)  # fmt: skip


def seeds_table(data: Collected, labels: Sequence[str]) -> str:
    """How often each of three seeds lies inside the intervals that the two others give."""
    found = third_seeds(data.group.results, labels)
    rows = [[label, *cells(counts)] for label, counts in found.items()]
    return table(["third seeds inside, %", *INSIDE], rows)


def common_table(data: Collected, labels: Sequence[str]) -> str:
    """What a seed does to all runs of a variant's sweep alike."""
    head = ["CE degradation at equal L0, % off the mean", "by seed, over all coefficients",
            "standard deviation of what is common", "of a single run beside it",
            "chance of as much if runs were independent"]  # fmt: skip
    return table(head, in_common(data.group, labels))


def draw(data: Collected, labels: Sequence[str], folder: Path, suffix: str = "") -> None:
    """Draw the figures of the given variants."""
    folder.mkdir(parents=True, exist_ok=True)
    for x, y in PLOTS:
        series = {}
        for label in labels:
            points = [(row[x], row[y]) for row in data.rows(label)]
            means: dict[float, list[tuple[float, float]]] = defaultdict(list)
            for row, point in zip(data.rows(label), points, strict=True):
                means[row["coefficient"] if row["coefficient"] == row["coefficient"]
                      else row["l0"]].append(point)  # fmt: skip
            line = sorted((mean(p[0] for p in part), mean(p[1] for p in part))
                          for part in means.values())  # fmt: skip
            series[label] = (points, line)
        title, other = METRICS[x], METRICS[y]
        figure = svg(series, title.title, f"{other.title} ({other.unit})")
        (folder / f"{data.name}-{x}-{y}{suffix}.svg").write_text(figure)


def draw_biases(data: Collected, labels: Sequence[str], folder: Path) -> None:
    """Draw histograms of encoder biases after training, with a line for each coefficient."""
    middles = (BIAS_EDGES[:-1] + BIAS_EDGES[1:]) / 2
    for label in labels:
        by: dict[float, list[list[float]]] = defaultdict(list)
        for row in data.rows(label):
            if BIASES in (history := data.histories[row["name"]]):
                by[row["coefficient"]].append(history[BIASES])
        lines: dict[str, tuple[list[tuple[float, float]], list[tuple[float, float]]]] = {}
        for coefficient, counts in sorted(by.items()):
            features = np.mean(counts, axis=0)
            line = [(x, y) for x, y in zip(middles, features, strict=True) if y > 0]
            lines[f"{coefficient:g}"] = ([], line)
        if lines:
            figure = svg(lines, "encoder bias (training units)", "features", x_linear=True)
            name = label.replace("/", "-")
            (folder / f"{data.name}-biases-{name}.svg").write_text(figure)


def rates_table(name: str) -> str:
    """For every variant, what the best learning rate saves compared with each other rate."""
    found = rank_learning_rates(read(RESULTS / f"{name}-rates")[0])
    rates = sorted({tried.rate for variant in found for tried in variant.tried})
    rows = []
    for variant in found:
        cells = {t.rate: "best" if t.rate == variant.best else _against(t) for t in variant.tried}
        rows.append([variant.label, *(cells.get(rate, "diverged") for rate in rates)])
    return table(["variant, learning rate", *(f"{rate:g}" for rate in rates)], rows)


def _against(tried: TriedRate) -> str:
    if tried.saving is None:
        return "no shared range"
    if tried.saving.amount.value is None:
        return str(tried.saving.status)
    return amount(tried.saving) + (", tied" if tried.is_tied else "")


def at_best_rates(name: str) -> Collected:
    """The short runs of every variant at its best learning rate."""
    results, histories = read(RESULTS / f"{name}-rates")
    best = {variant.label: variant.best for variant in rank_learning_rates(results)}
    chosen = [r for r in results if r.run.learning_rate == best[r.run.label]]
    return Collected.of(f"{name}-rates", chosen, histories)


def tokens_trained(data: Collected) -> str:
    """The number of tokens that the runs were trained on, in words."""
    names = [result.run.name for result in data.group.results]
    seen = {int(data.histories[name][TOKENS][0]) for name in names}
    return " or ".join(f"{n:,}" for n in sorted(seen))


def course_table(parts: Sequence[Collected], labels: Sequence[str]) -> str:
    """CE degradation at equal L0 after training for different numbers of tokens."""
    levels = parts[-1].levels
    rows = [
        [label, tokens_trained(data), *level_cells(data, label, "ce_degradation", levels)]
        for label in labels
        for data in parts
    ]
    heads = [f"{level:g}" for level in levels]
    return table(["CE degradation at L0 =", "tokens", *heads], rows)


def starts_table(path: Path) -> str:
    """The share of negative encoder biases with each training setting."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    cells: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        negative, dead = float(row["bias_negative_fraction"]), float(row["dead_fraction"])
        place = f"L0 {float(row['l0']):.3g}, CE {float(row['ce_degradation']):.3g}"
        text = f"{100 * negative:.2f} % ({place}, {100 * dead:.0f} % dead)"
        cells.setdefault((row["label"], row["setting"]), []).append(text)
    most = max(len(found) for found in cells.values())
    lines = [[*key, *found, *[""] * (most - len(found))] for key, found in cells.items()]
    return table(["variant", "setting", *(f"coefficient {i + 1}" for i in range(most))], lines)


def longer_sections(data: Collected) -> Iterator[tuple[str, str]]:
    """Tables of further runs: learning rates, lengths, another hook point, initial biases."""
    name = data.name
    if (RESULTS / f"{name}-rates.json").exists():
        yield "Learning rates", rates_table(name)
        short = at_best_rates(name)
        yield (
            f"All variants after {tokens_trained(short)} tokens, each at its best rate",
            level_table(short, short.group.labels, "ce_degradation"),
        )
        if (RESULTS / f"{name}-quarter.json").exists():
            parts = [Collected.read(f"{name}-quarter"), short, data]
            yield "Learning curves", course_table(parts, MAIN)
    for part, title in (("others", "Other variants"), ("mlp", "The output of the MLP")):
        if (RESULTS / f"{name}-{part}.json").exists():
            found = Collected.read(f"{name}-{part}")
            yield (
                f"{title}, after {tokens_trained(found)} tokens",
                level_table(found, found.group.labels, "ce_degradation"),
            )
            if part == "mlp":
                for first, *others in (
                    ("prolu/ste+l1", "relu+l1", "relu+sqrt_l1", "prolu/relu+l1"),
                    ("prolu/relu+l1", "relu+l1", "relu+sqrt_l1"),
                ):
                    yield f"{title}: what {first} saves", savings_table(found, first, others, MAIN)
                yield f"{title}: negative encoder biases", bias_table(found, MAIN)
    if (RESULTS / f"{name}-larger-rates.json").exists():
        yield "Larger learning rates, small runs", rates_table(f"{name}-larger")
        best = at_best_rates(f"{name}-larger")
        yield (
            f"The small runs after {tokens_trained(best)} tokens, each at its best rate",
            level_table(best, MAIN, "ce_degradation"),
        )
        yield (
            "The small runs at their best rates: what prolu/ste+l1 saves",
            savings_table(best, "prolu/ste+l1", (*MAIN[:2], "prolu/relu+l1"), MAIN),
        )
    for part, where in (("", ""), ("-small", ", small runs")):
        if (path := RESULTS / f"starts-{name}{part}.csv").exists():
            yield f"What decides how many biases are negative{where}", starts_table(path)


def sections(data: Collected) -> Iterator[tuple[str, str]]:
    """The title and content of every table."""
    ablations = [label for label in data.group.labels if label not in MAIN]
    everything = [*MAIN, *ablations]
    yield "CE degradation (nats) at equal L0", level_table(data, everything, "ce_degradation")
    for first, others in (
        ("prolu/ste+l1", ("relu+l1", "relu+sqrt_l1", "prolu/relu+l1")),
        ("prolu/relu+l1", ("relu+l1", "relu+sqrt_l1")),
    ):
        yield f"What {first} saves", savings_table(data, first, others, MAIN)
    yield "Who is ahead, L0 and CE degradation", leads_table(data, "l0", "ce_degradation", MAIN)
    yield "Who holds the MSE-L1 frontier", presence_table(data, "l1", "mse", MAIN)
    yield "Who is ahead, L1 and MSE", leads_table(data, "l1", "mse", MAIN)
    yield "L1 at equal L0", level_table(data, MAIN, "l1")
    yield (
        "Relative reconstruction bias at equal L0",
        level_table(data, MAIN, "relative_reconstruction_bias"),
    )
    yield "Who holds the MSE-sqrt-L1 frontier", presence_table(data, "sqrt_l1", "mse", MAIN)
    yield "Who is ahead, sqrt-L1 and MSE", leads_table(data, "sqrt_l1", "mse", MAIN)
    yield "sqrt-L1 at equal L0", level_table(data, MAIN, "sqrt_l1")
    yield "Negative encoder biases", bias_table(data, everything)
    yield "Negative encoder biases over training", bias_course_table(data, MAIN)
    # Ablations have one seed. Runs of one seed begin with the same weights, and what that does to
    # all of them alike cancels only between variants with the same seeds.
    yield (
        "Ablations, with the same seed: what prolu/ste+l1 saves",
        savings_table(data.of_seed(0), "prolu/ste+l1", ablations, ["prolu/ste+l1", *ablations]),
    )
    yield "Gradients while training", logged_gradients_table(data, everything)
    path = RESULTS / f"gradients-{data.name}.csv"
    if path.exists():
        yield "Direction of the gradients", gradient_table(path)
        yield "Direction of the gradients, differences", gradient_difference_table(path)
    yield "Do two seeds predict a third?", seeds_table(data, MAIN)
    yield "What runs of one seed have in common", common_table(data, MAIN)
    yield from longer_sections(data)


def write_tables(name: str, out: Path) -> None:
    """Write a model's tables and figures into a folder."""
    data = Collected.read(name)
    setting = data.group.results[0].setting
    head = (
        f"# Tables: {name}\n\nWritten by `python reports/reproduction.py tables {name}` from "
        f"`reports/results/`. {len(data.group.results)} runs; evaluated on {setting.n_counted:,} "
        f"held-out tokens in {setting.n_sequences} sequences. Brackets are 95 % intervals, over "
        "evaluated sequences and, for variants with several, training seeds.\n"
    )
    body = "".join(f"\n## {title}\n\n{content}" for title, content in sections(data))
    draw(data, MAIN, out / "figures")
    draw(data, data.group.labels, out / "figures", "-all")
    draw_biases(data, MAIN, out / "figures")
    (out / f"tables-{name}.md").write_text(head + body)


def main() -> None:
    """Collect results or write tables, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect")
    collecting.add_argument("runs", type=Path)
    collecting.add_argument("name")
    collecting.add_argument("--model", required=True, help="the model's name in the results")
    collecting.add_argument("--tokens", required=True, help="the text's name in the results")
    writing = commands.add_parser("tables")
    writing.add_argument("names", nargs="+")
    writing.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    options = parser.parse_args()
    if options.command == "collect":
        source = {"model": options.model, "tokens": options.tokens}
        collect(options.runs, RESULTS / options.name, source)
    else:
        for name in options.names:
            write_tables(name, options.out)


if __name__ == "__main__":
    main()
