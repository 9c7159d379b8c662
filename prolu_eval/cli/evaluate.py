"""`prolu-eval evaluate`: measure runs and store the results."""

from typing import TYPE_CHECKING, Annotated

import typer

from prolu_eval.cli import app, options, remark, say_document, say_table
from prolu_eval.cli.command import ANSWER, PRINTED
from prolu_eval.errors import CHECK_FAILED, DONE, WRONG_INPUT, UsageError
from prolu_eval.plain_text import printable

if TYPE_CHECKING:
    from prolu_eval.evaluation import EvaluationOptions, Outcome
    from prolu_eval.render.documents import RunDocument


DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print what --on slurm would submit, and submit nothing.",
        rich_help_panel=PRINTED,
    ),
]


@app.command(cls=options.EvaluatingCommand, rich_help_panel=ANSWER)
def evaluate(
    context: typer.Context,
    runs: options.OptionalRuns = None,
    x: options.X = "l0",
    y: options.Y = "ce_degradation",
    z: options.Z = None,
    dry_run: DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure every run found and store its result; what is stored is not measured again.

    Objectives matter to --race alone.
    """
    from prolu_eval.evaluation import evaluate as evaluate_runs

    chosen = options.chosen(context, *filter(None, (x, y, z)))
    if dry_run:
        _print_jobs(chosen)
        return
    outcomes = evaluate_runs(runs or [], chosen, progress=not quiet)
    if as_json:
        say_document({"runs": [outcome_document(o).to_json() for o in outcomes]})
    else:
        _print(outcomes, chosen)
    if not quiet:
        remark_precisions(outcomes)
        remark_tasks(outcomes, chosen)
        remark_race(outcomes)
        _remark_unreached(outcomes, chosen)
    if not as_json:
        report_failures(outcomes)
    raise typer.Exit(exit_code(outcomes))


def _print_jobs(chosen: "EvaluationOptions") -> None:
    from prolu_eval.cluster.address import SLURM, engine_of
    from prolu_eval.evaluation.slurm import Jobs

    if chosen.on != SLURM:
        raise UsageError("--dry-run", "is of jobs", "give --on slurm")
    engine_of(SLURM)
    typer.echo(Jobs.of(chosen.slurm).script(), nl=False)


def outcome_document(outcome: "Outcome") -> "RunDocument":
    """What became of a run in an evaluation."""
    from prolu_eval.render.documents import run_document

    return run_document(
        outcome.name, str(outcome.path), outcome.variant, outcome.format, outcome.result,
        status=outcome.status, error=outcome.error,
    )  # fmt: skip


def exit_code(outcomes: "list[Outcome]") -> int:
    """0 if all went well, 1 if some runs failed, 2 if all did."""
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if failed == 0:
        return DONE
    return WRONG_INPUT if failed == len(outcomes) else CHECK_FAILED


def report_failures(outcomes: "list[Outcome]") -> None:
    """One line on stderr for each reason that runs could not be evaluated for.

    Commands say this last, below whatever they print of the other runs. What is wrong with several
    runs in the same way, as with runs that do not say their hook point, is said once.
    """
    reasons: dict[str, list[tuple[str, str]]] = {}
    for outcome in outcomes:
        if outcome.status == "failed":
            error = outcome.error or ""
            own = error.removeprefix(f"{printable(outcome.path)}: ")
            reasons.setdefault(own, []).append((outcome.name, error))
    for own, ((first, error), *others) in reasons.items():
        remark(
            f"{first} and {len(others)} more skipped: {own}"
            if others
            else f"{first} skipped: {error}"
        )


def remark_tasks(outcomes: "list[Outcome]", chosen: "EvaluationOptions") -> None:
    """One line on stderr for each set of tasks that was asked for: how many of them count."""
    told = []
    for over in chosen.measure:
        what = {"probes": "probing", "behaviour": "templated"}[over]
        for outcome in outcomes:
            tasks = None if outcome.result is None else outcome.result.tasks.get(over)
            if tasks is not None:
                n_all = len(tasks.tried) + len(tasks.skipped)
                skipped = f"; {len(tasks.skipped)} cannot be put into its tokens"
                told.append(
                    f"{len(tasks.tasks)} of {n_all} {what} tasks count: those that the model "
                    f"itself can do{skipped if tasks.skipped else ''} ({tasks.source})."
                )
    for line in dict.fromkeys(told):
        remark(line)


def remark_precisions(outcomes: "list[Outcome]") -> None:
    """One line on stderr for each precision that nobody named, and why it was chosen."""
    settings = [outcome.result.setting for outcome in outcomes if outcome.result is not None]
    for reason in dict.fromkeys(s.dtype_reason for s in settings if s.dtype_reason is not None):
        remark(f"--dtype {reason}.")


def remark_race(outcomes: "list[Outcome]") -> None:
    """One line on stderr about the runs that left a race, and what that saved."""
    dropped = [o.result.setting for o in outcomes if o.status == "dropped" and o.result is not None]
    if not dropped:
        return
    others = [o.result.setting for o in outcomes if o.status != "dropped" and o.result is not None]
    whole = max(setting.n_sequences for setting in others)
    n_runs = len(dropped) + len(others)
    saved = sum(1 - setting.n_sequences / whole for setting in dropped) / n_runs
    remark(
        f"{len(dropped)} of {n_runs} runs left the race, surely beaten by others, which saved "
        f"{saved:.0%} of the tokens."
    )


def _remark_unreached(outcomes: "list[Outcome]", chosen: "EvaluationOptions") -> None:
    """One line on stderr for each standard error that the tokens did not do for."""
    for key, target in chosen.target_se.items():
        results = [outcome.result for outcome in outcomes if outcome.result is not None]
        found = [result.metrics.get(key) for result in results]
        errors = [None if scalar is None else scalar.standard_error for scalar in found]
        missed = [error for error in errors if error is None or error > target]
        if missed:
            remark(
                f"{len(missed)} of {len(errors)} runs do not reach a standard error of "
                f"{target:g} in {key} on {chosen.n_tokens:,} tokens; raise --n-tokens."
            )


def _print_layers(outcome: "Outcome") -> None:
    """Print a table of the layers of what stands for several."""
    from prolu_eval.runs import hooks_in, is_range

    if outcome.result is None or not is_range(outcome.result.run.site):
        return
    layers = outcome.result.per_layer()
    columns = ([f"{value:.4g}" for value in values] for values in layers.values())
    rows = zip(hooks_in(outcome.result.run.site), *columns, strict=True)
    typer.echo()
    say_table([(f"{outcome.name}, each alone", *layers), *rows])


def _print(outcomes: "list[Outcome]", chosen: "EvaluationOptions") -> None:
    keys = ["l0", "ce_degradation", "explained_variance"]
    if "probes" in chosen.measure:
        keys.append(f"probe_auc_k{min(chosen.k, default=1)}")
    if "behaviour" in chosen.measure:
        keys.append("task_accuracy")
    rows: list[tuple[str, ...]] = [("run", "status", *keys)]
    for outcome in outcomes:
        found = outcome.result
        known = {} if found is None else found.metrics
        shown = (f"{known[key]:se}" if key in known else "-" for key in keys)
        rows.append((outcome.name, outcome.status, *shown))
    if any(outcome.status != "failed" for outcome in outcomes):
        say_table(rows)
    for outcome in outcomes:
        _print_layers(outcome)
    if any(outcome.status == "partial" for outcome in outcomes):
        remark("what is partial has a result once its other shares are measured.")
