"""`prolu-eval sweep`: train a grid of autoencoders."""

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prolu_eval.cli import app, completion, options, remark, say, say_document, say_paragraph
from prolu_eval.cli.command import PRINTED, RUNNING, SCHEDULE, TRAIN, TRAINED, WRITTEN, Command
from prolu_eval.errors import CHECK_FAILED, DONE, WRONG_INPUT, UsageError
from prolu_eval.estimates import number
from prolu_eval.evaluation.options import Panel
from prolu_eval.runs import TRAIN_LONGER

if TYPE_CHECKING:
    from prolu_eval.learning_rates import FoundRate
    from prolu_eval.training import Cost, Settings, SweepFile, Trained
    from prolu_eval.training.config import Plan

File = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE",
        help="A sweep file [default: the write-up's four sweeps, which come along]",
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "-o",
        "--out",
        metavar="FOLDER",
        help="Folder for the runs, one folder each.",
        rich_help_panel=WRITTEN,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="'embedded', a local folder, a hub name, or synthetic:NAME for a benchmark with known "
        "features [default: the file's, or 'embedded']",
        rich_help_panel=TRAINED,
        autocompletion=completion.trained_models,
    ),
]
Hook = Annotated[
    str | None,
    typer.Option(
        metavar="HOOK",
        help="Hook point whose activations are trained on [default: the file's]",
        rich_help_panel=TRAINED,
    ),
]
Variants = Annotated[
    str | None,
    typer.Option(
        "--variant",
        metavar="NAMES",
        help="Only these variants, as tables name them: relu,prolu/ste,relu+sqrt_l1. One that the "
        "file lacks needs --coefficients, --k or --target-l0 [default: those of the file]",
        rich_help_panel=TRAINED,
        autocompletion=completion.variants,
    ),
]
DSae = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Number of features [default: the file's]",
        rich_help_panel=TRAINED,
    ),
]
Expansion = Annotated[
    float | None,
    typer.Option(
        metavar="FACTOR",
        help="Number of features as a multiple of the activations' width, in the place of --d-sae.",
        rich_help_panel=TRAINED,
    ),
]
Coefficients = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBERS",
        help="Coefficients of the penalty, as in 0.1,0.3,1, for every variant that has one "
        "[default: the file's]",
        rich_help_panel=TRAINED,
    ),
]
K = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBERS",
        help="Numbers of active features, as in 8,16,32, for every variant that takes k "
        "[default: the file's]",
        rich_help_panel=TRAINED,
    ),
]
TargetL0 = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBERS",
        help="Train at about these L0, as in 8,16,32,64, in the place of coefficients and k. "
        "Coefficients are searched for in trainings into the folder OUT-target-l0: short ones "
        "over a wide range, then full ones until L0 is within 10 % of its target.",
        rich_help_panel=TRAINED,
    ),
]
Baselines = Annotated[
    bool | None,
    typer.Option(
        help="Train and compute chance baselines beside the sweeps [default: the file's, or none]",
        rich_help_panel=TRAINED,
    ),
]
Tokens = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="What to train on, but for a tenth that is held out: text or JSON lines, JSON, CSV, "
        "TSV, Parquet (or packed: .gz, .zst), a folder of these, a dataset's folder or name, .npy "
        "or .safetensors of token ids; 'embedded' for Python's standard library [default: the "
        "file's; none for a model of your own]",
        rich_help_panel=Panel.TEXT.value,
        autocompletion=completion.EVALUATION["tokens"],
    ),
]
TextColumn = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column of the text or the token ids [default: input_ids, tokens, text or content]",
        rich_help_panel=Panel.TEXT.value,
    ),
]
ContextLength = Annotated[
    int | None,
    typer.Option(
        min=2,
        metavar="N",
        help="Tokens per sequence [default: the file's, or 128]",
        rich_help_panel=Panel.TEXT.value,
    ),
]
TrainTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Number of activations that each run is trained on [default: the file's]",
        rich_help_panel=SCHEDULE,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Activations in each optimiser step [default: the file's]",
        rich_help_panel=SCHEDULE,
    ),
]
LearningRates = Annotated[
    str | None,
    typer.Option(
        "--learning-rates",
        "--learning-rate",
        metavar="NUMBERS",
        help="Peak learning rate, or several, as in 1e-3,4e-3, for every variant [default: the "
        "file's]",
        rich_help_panel=SCHEDULE,
    ),
]
FindLearningRates = Annotated[
    bool,
    typer.Option(
        "--find-lr",
        help="First try several learning rates for each variant in short trainings, into the "
        "folder OUT-learning-rates, and train the grid with those that give the best frontiers.",
        rich_help_panel=SCHEDULE,
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBERS",
        help="Seeds that every run is trained with, as in 0,1,2 [default: the file's, or 0]",
        rich_help_panel=SCHEDULE,
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder that keeps activations for later sweeps.",
        rich_help_panel=RUNNING,
    ),
]
Minutes = Annotated[
    float,
    typer.Option(
        min=0,
        metavar="MINUTES",
        help="Minutes between checkpoints, from which an interrupted sweep goes on.",
        rich_help_panel=RUNNING,
    ),
]
TensorBoardFolder = Annotated[
    Path | None,
    typer.Option(
        "--tensorboard",
        metavar="FOLDER",
        help="Write logs for TensorBoard here.",
        rich_help_panel=WRITTEN,
    ),
]
WandbProject = Annotated[
    str | None,
    typer.Option(
        "--wandb",
        metavar="PROJECT",
        help="Log to this project of Weights & Biases.",
        rich_help_panel=WRITTEN,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the grid and its cost, and train nothing.",
        rich_help_panel=PRINTED,
    ),
]
ShowExample = Annotated[
    bool,
    typer.Option(
        "--example",
        help="Print a commented sweep file with every setting.",
        rich_help_panel=PRINTED,
    ),
]


@app.command(cls=Command, rich_help_panel=TRAIN)
def sweep(
    file: File = None,
    model: Model = None,
    hook: Hook = None,
    variant: Variants = None,
    d_sae: DSae = None,
    expansion: Expansion = None,
    coefficients: Coefficients = None,
    k: K = None,
    target_l0: TargetL0 = None,
    baselines: Baselines = None,
    tokens: Tokens = None,
    text_column: TextColumn = None,
    context_length: ContextLength = None,
    n_tokens: TrainTokens = None,
    batch_size: BatchSize = None,
    learning_rates: LearningRates = None,
    find_lr: FindLearningRates = False,
    seeds: Seeds = None,
    device: options.Device = None,
    on: options.On = None,
    ray: options.Ray = None,
    cache: Cache = None,
    checkpoint_minutes: Minutes = 5,
    out: Out = Path("runs"),
    tensorboard: TensorBoardFolder = None,
    wandb: WandbProject = None,
    dry_run: DryRun = False,
    example: ShowExample = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train every run of a sweep file that is not there yet, all at once on the same activations.

    Options replace what the file says, under the same names. A sweep that was interrupted goes on
    from its last checkpoint when it is called again.
    """
    from prolu_eval.training import EXAMPLE, FOUR_SWEEPS, Settings, read_sweep_file
    from prolu_eval.training.loggers import Logger, TensorBoard, WeightsAndBiases

    if example:
        typer.echo(EXAMPLE.read_text(encoding="utf-8"), nl=False)
        return
    if out.exists() and not out.is_dir():
        raise UsageError("--out", f"{out} is a file", "name a folder")
    grid = read_sweep_file(
        file or FOUR_SWEEPS,
        model=model,
        hook=hook,
        variants=options.names("--variant", variant),
        d_sae=d_sae,
        expansion=expansion,
        coefficients=options.numbers("--coefficients", coefficients),
        k=options.numbers("--k", k, least=1),
        target_l0=options.numbers("--target-l0", target_l0),
        baselines=baselines,
        tokens=tokens,
        text_column=text_column,
        context_length=context_length,
        n_tokens=n_tokens,
        batch_size=batch_size,
        learning_rates=options.numbers("--learning-rates", learning_rates),
        seeds=options.numbers("--seeds", seeds, least=0, whole=True),
    )
    if dry_run:
        _print_grid(grid, out, device, as_json)
        return
    loggers: list[Logger] = []
    if tensorboard is not None:
        loggers.append(TensorBoard(tensorboard))
    if wandb is not None:
        loggers.append(WeightsAndBiases(wandb, out))
    settings = Settings(device, cache, checkpoint_minutes, not quiet, loggers, on, ray)
    with ExitStack() as closing:
        for logger in loggers:
            closing.callback(logger.close)
        if find_lr:
            grid = _with_found_rates(grid, out, settings, quiet=quiet or as_json)
        grid = _with_found_coefficients(grid, out, settings, quiet=quiet or as_json)
        code = train_and_print(grid, out, settings, as_json=as_json, quiet=quiet)
    raise typer.Exit(code)


def _with_found_rates(
    grid: "SweepFile", out: Path, settings: "Settings", *, quiet: bool
) -> "SweepFile":
    """The grid with the learning rates found in short trainings, which are shown."""
    from prolu_eval.learning_rates import find_learning_rates, with_learning_rates

    found = find_learning_rates(grid, out.with_name(f"{out.name}-learning-rates"), settings)
    for variant in found:
        if not quiet:
            say(f"{variant.label}: learning rate {variant.best:g}{_against_others(variant)}")
        if variant.is_at_the_edge:
            remark(f"{variant.label}: the best learning rate is at the edge of those tried, so "
                   "that a better one may lie beyond.")  # fmt: skip
    return with_learning_rates(grid, found)


def _with_found_coefficients(
    grid: "SweepFile", out: Path, settings: "Settings", *, quiet: bool
) -> "SweepFile":
    """The grid with the coefficients that were found for its targets, which are shown."""
    from prolu_eval.target_l0 import TOLERANCE, find_coefficients, with_coefficients

    found = find_coefficients(grid, out, settings)
    for one in found:
        told = "found earlier" if one.l0 is None else f"it reaches {number(one.l0)}"
        at = "" if len(grid.within.learning_rates or ()) < 2 else f" at rate {one.learning_rate:g}"
        if not quiet:
            chosen = f"coefficient {one.coefficient:g} for L0 {one.target:g}"
            say_paragraph(f"{one.label}{at}: {chosen}; {told}")
        if not one.is_near:
            remark(f"{one.label}{at}: no training came within {TOLERANCE:.0%} of L0 "
                   f"{one.target:g}; the nearest reaches {number(one.l0)}.")  # fmt: skip
    return with_coefficients(grid, found)


def _against_others(found: "FoundRate") -> str:
    """What the best learning rate saves against each of the others."""
    from prolu_eval.analysis.statement import amount

    others = []
    for tried in found.tried[1:]:
        if tried.saving is None or tried.saving.amount.value is None:
            why = "" if tried.saving is None else f" ({tried.saving.status})"
            others.append(f"{tried.rate:g} cannot be compared with it{why}")
        else:
            tie = " (not told apart)" if tried.is_tied else ""
            others.append(f"{amount(tried.saving)} than at {tried.rate:g}{tie}")
    return "".join(f"; {other}" for other in others)


def train_and_print(
    grid: "SweepFile", out: Path, settings: "Settings", *, as_json: bool, quiet: bool
) -> int:
    """Train, say what came of it, and the exit code."""
    from prolu_eval.training import train_sweep

    trained = train_sweep(grid, out, settings)
    if as_json:
        say_document({"runs": [_describe(t) for t in trained]})
    elif not quiet:
        new = sum(t.status == "trained" for t in trained)
        present = sum(t.status == "present" for t in trained)
        say(f"{new} runs trained, {present} were there already: {out}")
        unfinished = [t for t in trained if t.not_converged is not None]
        for t in unfinished:
            remark(f"{t.plan.name}: not converged: {t.not_converged}.")
        if unfinished:
            remark(f"what is not converged: {TRAIN_LONGER}.")
    failed = [t for t in trained if t.status == "failed"]
    for t in failed:
        remark(str(t.error))
    if not failed:
        return DONE
    return WRONG_INPUT if len(failed) == len(trained) else CHECK_FAILED


def _describe(trained: "Trained") -> dict[str, Any]:
    return {
        "run": trained.plan.name,
        "path": str(trained.folder),
        "status": trained.status,
        "error": trained.error,
        "not_converged": trained.not_converged,
        "target_l0": trained.plan.target_l0,
    }


def _print_grid(grid: "SweepFile", out: Path, device: str | None, as_json: bool) -> None:
    from prolu_eval.devices import devices_of
    from prolu_eval.target_l0 import TRIES, as_if_found, trials
    from prolu_eval.training import estimate_cost
    from prolu_eval.training.source import load_source

    devices = devices_of(device)
    whole = as_if_found(grid)
    shared, plans = grid.shared, list(whole.plans())
    whole.check(d_in := (model := load_source(shared, devices[0])).width(shared.hook))
    cost = estimate_cost(plans, shared, d_in, model.device)
    search = [
        estimate_cost(list(part.plans()), part.shared, d_in, model.device)
        for part in (trials(grid) if grid.still_to_be_found else ())
    ]
    if as_json:
        document: dict[str, Any] = {
            "shared": shared.model_dump(mode="json"),
            "runs": [_planned(plan, grid, out) for plan in plans],
            "cost": asdict(cost),
        }
        if search:
            document["search"] = {"short": asdict(search[0]), "full_round": asdict(search[1])}
        say_document(document)
        return
    typer.echo(
        f"{shared.hook} of {shared.model}, d_in {d_in}, d_sae {shared.dictionary_size(d_in)}, "
        f"{shared.n_tokens:,} tokens"
    )
    for plan in plans:
        typer.echo(f"  {_title(plan, grid)}")
    _print_cost(cost, str(model.device), len(devices))
    if search:
        short, full = search
        typer.echo(
            f"search for coefficients: {short.runs} short runs of {short.steps:,} steps, "
            f"{short.seconds / 60:,.1f} minutes, and {full.runs} runs of the grid, "
            f"{full.seconds / 60:,.1f} minutes, up to {TRIES} times"
        )


def _title(plan: "Plan", grid: "SweepFile") -> str:
    """A run's name; what it is to be where its coefficient is still to be found."""
    if plan.target_l0 is None or not _is_open(plan, grid):
        return plan.name
    rate, seed = f"{plan.learning_rate:g}", plan.seed
    return f"{plan.label} at L0 {plan.target_l0:g}, learning rate {rate}, seed {seed}"


def _is_open(plan: "Plan", grid: "SweepFile") -> bool:
    return plan.sweep not in grid.sweeps


def _planned(plan: "Plan", grid: "SweepFile", out: Path) -> dict[str, Any]:
    if not _is_open(plan, grid):
        return {"run": plan.name, "path": str(out / plan.name)}
    return {"run": None, "path": None, "variant": plan.label, "target_l0": plan.target_l0}


def _print_cost(cost: "Cost", device: str, n_devices: int) -> None:
    rounds = "" if cost.rounds == 1 else f", in {cost.rounds} rounds because of memory"
    typer.echo(f"{cost.runs} runs of {cost.steps:,} steps{rounds}")
    typer.echo(f"parameters of each: {cost.parameters:,}")
    parts = asdict(cost.memory)
    total = parts.pop("total")
    told = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in parts.items())
    typer.echo(f"memory at the peak: {total / 2**20:,.0f} MiB ({told})")
    typer.echo(f"operations, were every feature active: {cost.flops / 1e12:,.1f} TFLOP")
    typer.echo(f"time on {device}, by a few steps of each sweep: {cost.seconds / 60:,.1f} minutes")
    if n_devices > 1:
        minutes = cost.seconds / 60 / n_devices
        typer.echo(f"shared by {n_devices} devices like it: {minutes:,.1f} minutes")
