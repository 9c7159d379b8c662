"""`prolu-eval sweep`: train a grid of autoencoders."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prolu_eval.cli import app, options
from prolu_eval.errors import CHECK_FAILED, DONE, WRONG_INPUT

if TYPE_CHECKING:
    from prolu_eval.training import SweepFile, Trained

File = Annotated[
    Path | None,
    typer.Argument(help="A sweep file [default: the write-up's four sweeps, which come along]"),
]
Out = Annotated[Path, typer.Option(help="Folder for the runs, one folder each.")]
TrainTokens = Annotated[int | None, typer.Option(min=1, help="Activations to train on.")]
DSae = Annotated[int | None, typer.Option(min=1, help="Dictionary size.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the grid and train nothing.")]


@app.command()
def sweep(
    file: File = None,
    out: Out = Path("runs"),
    model: options.Model = None,
    hook: options.Hook = None,
    tokens: options.Tokens = None,
    n_tokens: TrainTokens = None,
    context_length: options.ContextLength = None,
    d_sae: DSae = None,
    device: options.Device = None,
    dry_run: DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train every run of a sweep file that is not there yet, all at once on the same activations.

    Options replace what the file says is shared among all sweeps.
    """
    from prolu_eval.training import FOUR_SWEEPS, read_sweep_file

    settings = read_sweep_file(
        file or FOUR_SWEEPS,
        model=local(model),
        hook=hook,
        dataset=local(tokens),
        n_tokens=n_tokens,
        context_length=context_length,
        d_sae=d_sae,
    )
    if dry_run:
        _print_grid(settings, out, as_json)
        return
    options.check_device(device)
    raise typer.Exit(train_and_print(settings, out, device, as_json=as_json, quiet=quiet))


def train_and_print(
    settings: "SweepFile", out: Path, device: str | None, *, as_json: bool, quiet: bool
) -> int:
    """Train, say what came of it, and the exit code."""
    from prolu_eval.training import train

    trained = train(settings, out, device=device, progress=not quiet)
    if as_json:
        typer.echo(json.dumps({"runs": [_describe(t) for t in trained]}, indent=1))
    elif not quiet:
        new = sum(t.status == "trained" for t in trained)
        present = sum(t.status == "present" for t in trained)
        typer.echo(f"{new} runs trained, {present} were there already: {out}")
    failed = [t for t in trained if t.status == "failed"]
    for t in failed:
        typer.echo(f"prolu-eval: {t.error}", err=True)
    if not failed:
        return DONE
    return WRONG_INPUT if len(failed) == len(trained) else CHECK_FAILED


def local(name: str | None) -> str | None:
    """A path that exists, made absolute so that runs can be evaluated from any folder."""
    return str(Path(name).resolve()) if name is not None and Path(name).exists() else name


def _describe(trained: "Trained") -> dict[str, Any]:
    return {
        "run": trained.plan.name,
        "path": str(trained.folder),
        "status": trained.status,
        "error": trained.error,
    }


def _print_grid(settings: "SweepFile", out: Path, as_json: bool) -> None:
    plans = list(settings.plans())
    if as_json:
        document = {
            "shared": settings.shared.model_dump(mode="json"),
            "runs": [{"run": plan.name, "path": str(out / plan.name)} for plan in plans],
        }
        typer.echo(json.dumps(document, indent=1))
        return
    shared = settings.shared
    typer.echo(f"{shared.hook} of {shared.model}, d_sae {shared.d_sae}, {shared.n_tokens:,} tokens")
    for plan in plans:
        typer.echo(f"  {plan.name}")
    typer.echo(f"{len(plans)} runs")
