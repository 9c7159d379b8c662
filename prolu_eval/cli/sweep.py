"""`prolu-eval sweep`: train a grid of autoencoders."""

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prolu_eval.cli import app, options, remark, say, say_document
from prolu_eval.errors import CHECK_FAILED, DONE, WRONG_INPUT

if TYPE_CHECKING:
    from prolu_eval.learning_rates import FoundRate
    from prolu_eval.training import Cost, Settings, SweepFile, Trained

File = Annotated[
    Path | None,
    typer.Argument(help="A sweep file [default: the write-up's four sweeps, which come along]"),
]
Out = Annotated[Path, typer.Option(help="Folder for the runs, one folder each.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="'embedded', a local folder, a hub name, or synthetic:NAME for a benchmark with known "
        "features [default: the file's, or 'embedded']"
    ),
]
Hook = Annotated[str | None, typer.Option(help="Hook point [default: the file's]")]
Tokens = Annotated[
    str | None,
    typer.Option(
        help="What to train on, and to hold a tenth of out: text or JSON lines, JSON, CSV, TSV, "
        "Parquet (or packed: .gz, .zst), a folder of these, a dataset's folder or name, .npy or "
        ".safetensors of token ids; 'embedded' for Python's standard library [default: the "
        "file's; none for a model of your own]"
    ),
]
ContextLength = Annotated[
    int | None, typer.Option(min=2, help="Tokens per sequence [default: the file's, or 128]")
]
TrainTokens = Annotated[int | None, typer.Option(min=1, help="Activations to train on.")]
DSae = Annotated[int | None, typer.Option(min=1, help="Dictionary size.")]
Cache = Annotated[Path | None, typer.Option(help="Folder that keeps activations for later sweeps.")]
Minutes = Annotated[
    float, typer.Option(min=0, help="Minutes between checkpoints, from which a sweep continues.")
]
TensorBoardFolder = Annotated[
    Path | None, typer.Option("--tensorboard", help="Folder for TensorBoard logs.")
]
WandbProject = Annotated[
    str | None, typer.Option("--wandb", help="Weights & Biases project to log to.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the grid and its cost, and train nothing.")
]
FindLearningRates = Annotated[
    bool,
    typer.Option(
        "--find-lr",
        help="First try several learning rates for each variant in short trainings, into the "
        "folder OUT-learning-rates, and train the grid with those that give the best frontiers.",
    ),
]
ShowExample = Annotated[
    bool, typer.Option("--example", help="Print a commented sweep file with every setting.")
]


@app.command()
def sweep(
    file: File = None,
    out: Out = Path("runs"),
    model: Model = None,
    hook: Hook = None,
    tokens: Tokens = None,
    text_column: options.TextColumn = None,
    n_tokens: TrainTokens = None,
    context_length: ContextLength = None,
    d_sae: DSae = None,
    device: options.Device = None,
    on: options.On = None,
    ray: options.Ray = None,
    cache: Cache = None,
    checkpoint_minutes: Minutes = 5,
    tensorboard: TensorBoardFolder = None,
    wandb: WandbProject = None,
    find_lr: FindLearningRates = False,
    dry_run: DryRun = False,
    example: ShowExample = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train every run of a sweep file that is not there yet, all at once on the same activations.

    Options replace what the file says is shared among all sweeps. A sweep that was interrupted goes
    on from its last checkpoint when it is called again.
    """
    from prolu_eval.training import EXAMPLE, FOUR_SWEEPS, Settings, read_sweep_file
    from prolu_eval.training.loggers import Logger, TensorBoard, WeightsAndBiases

    if example:
        typer.echo(EXAMPLE.read_text(encoding="utf-8"), nl=False)
        return
    grid = read_sweep_file(
        file or FOUR_SWEEPS,
        model=model,
        hook=hook,
        dataset=tokens,
        text_column=text_column,
        n_tokens=n_tokens,
        context_length=context_length,
        d_sae=d_sae,
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
        for t in trained:
            if t.not_converged is not None:
                remark(f"{t.plan.name}: not converged: {t.not_converged}.")
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
    }


def _print_grid(grid: "SweepFile", out: Path, device: str | None, as_json: bool) -> None:
    from prolu_eval.devices import devices_of
    from prolu_eval.training import estimate_cost
    from prolu_eval.training.source import load_source

    devices_of(device)
    shared, plans = grid.shared, list(grid.plans())
    devices = devices_of(device)
    model = load_source(shared, devices[0])
    d_in = model.width(shared.hook)
    cost = estimate_cost(plans, shared, d_in, model.device)
    if as_json:
        document = {
            "shared": shared.model_dump(mode="json"),
            "runs": [{"run": plan.name, "path": str(out / plan.name)} for plan in plans],
            "cost": asdict(cost),
        }
        say_document(document)
        return
    typer.echo(
        f"{shared.hook} of {shared.model}, d_in {d_in}, d_sae {shared.dictionary_size(d_in)}, "
        f"{shared.n_tokens:,} tokens"
    )
    for plan in plans:
        typer.echo(f"  {plan.name}")
    _print_cost(cost, str(model.device), len(devices))


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
