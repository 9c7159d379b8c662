"""The conditions under which a run is measured: runs that share them are measured together."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prolu_eval.checkpoints.hook_names import hook_of, of_port
from prolu_eval.choices import Split
from prolu_eval.errors import UsageError
from prolu_eval.evaluation.options import DEFAULT_CONTEXT, EvaluationOptions
from prolu_eval.lm import official_name
from prolu_eval.runs import Run, WeightProcessing
from prolu_eval.synthetic import HOOK, is_synthetic
from prolu_eval.synthetic.benchmark import absolute

# The most weights and autoencoders that are in memory together. More runs are measured in several
# portions with a clean pass each, which costs little compared with so many autoencoders.
_WEIGHT_BYTES, _MOST_RUNS = 1 << 30, 64
# What a run may not say of itself, and the option that says it.
_AS_OPTION = {
    "model": "--model NAME",
    "hook": "--hook blocks.N.hook_resid_post",
    "hook_out": "--hook-out blocks.N.hook_mlp_out",
    "tokens": "--tokens TEXT",
}


@dataclass(frozen=True, order=True)
class Conditions:
    """A model, a hook point, and the text on which runs are measured.

    The hook point is the one whose activations are replaced; for a transcoder, its output site.
    """

    model: str
    revision: str
    weight_processing: WeightProcessing
    tokens: str
    text_column: str
    split: Split
    context_length: int
    prepend_bos: bool
    hook: str


def placed(run: Run, options: EvaluationOptions) -> Run:
    """The run at the hook points that the options, or else its own configuration, name.

    Hook points of a transcoder may also be inputs and outputs of modules, such as ``PATH.output``.
    """
    hook = hook_of(options.hook or run.hook)
    if run.d_out is None:
        return replace(run, hook=hook)
    hook_out = hook_of(options.hook_out or run.hook_out)
    read, put_in = (name and of_port(name) for name in (hook, hook_out))
    return replace(run, hook=read, hook_out=put_in)


def conditions_of(run: Run, options: EvaluationOptions) -> Conditions:
    """The conditions that the options, or else the configuration of a :func:`placed` run, name.

    Raises:
        UsageError: if neither names the model, the hook points or the text, or if the options name
            a text for a run on a benchmark, which has samples of its own.
    """
    if is_synthetic(options.model or run.model):
        return _of_a_benchmark(absolute(str(options.model or run.model)), run, options)
    transcoder = {} if run.d_out is None else {"hook_out": run.hook_out}
    needs = {
        "model": options.model or run.model,
        "hook": run.hook,
        **transcoder,
        "tokens": options.tokens or run.dataset,
    }
    if missing := [what for what, value in needs.items() if value is None]:
        reason = f"does not say its {_and(missing)}"
        remedy = f"pass {' '.join(_AS_OPTION[what] for what in missing)}"
        raise UsageError(run.path, reason, remedy)
    for what, value in needs.items():
        try:
            Path(str(value)).exists()
        except OSError as error:
            reason = f"its {what} cannot be the name of one ({error.strerror})"
            raise UsageError(run.path, reason, f"pass {_AS_OPTION[what]}") from None
    prepend_bos = run.prepend_bos if options.prepend_bos is None else options.prepend_bos
    return Conditions(
        model=official_name(str(needs["model"])),
        revision=(None if options.model else run.model_revision) or "",
        weight_processing=options.weight_processing or run.weight_processing or "none",
        tokens=str(needs["tokens"]),
        text_column=options.text_column or (None if options.tokens else run.text_column) or "",
        split=options.split or ("all" if options.tokens else "heldout"),
        context_length=options.context_length or run.context_length or DEFAULT_CONTEXT,
        prepend_bos=prepend_bos,
        hook=str(run.hook if run.d_out is None else run.hook_out),
    )


def _and(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def _of_a_benchmark(name: str, run: Run, options: EvaluationOptions) -> Conditions:
    if options.tokens is not None and options.tokens != name:
        raise UsageError(run.path, f"was trained on {name}, which has samples of its own",
                         "leave out --tokens")  # fmt: skip
    return Conditions(
        model=name,
        revision="",
        weight_processing="none",
        tokens=name,
        text_column="",
        split=options.split or "heldout",
        context_length=options.context_length or run.context_length or DEFAULT_CONTEXT,
        prepend_bos=True,
        hook=HOOK,
    )


def portions(runs: Iterable[Run]) -> Iterator[list[Run]]:
    """Runs in portions whose weights fit in memory together."""
    portion: list[Run] = []
    size = 0
    for run in runs:
        weights = 4 * (run.n_weights or 2 * run.d_in * run.d_sae)
        if portion and (size + weights > _WEIGHT_BYTES or len(portion) == _MOST_RUNS):
            yield portion
            portion, size = [], 0
        portion.append(run)
        size += weights
    if portion:
        yield portion
