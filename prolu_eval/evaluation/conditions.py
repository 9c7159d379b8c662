"""The conditions under which a run is measured: runs that share them are measured together."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prolu_eval.checkpoints.hook_names import hook_of
from prolu_eval.choices import Split
from prolu_eval.errors import UsageError
from prolu_eval.evaluation.options import DEFAULT_CONTEXT, EvaluationOptions
from prolu_eval.lm import official_name
from prolu_eval.runs import Run, WeightProcessing

# Weights of autoencoders that are held at once, and their number; more runs than that share further
# clean passes, which by then cost next to nothing beside them.
_WEIGHT_BYTES, _MOST_RUNS = 1 << 30, 64


@dataclass(frozen=True, order=True)
class Conditions:
    """A model, a hook point, and the text that they are measured on."""

    model: str
    revision: str
    weight_processing: WeightProcessing
    tokens: str
    text_column: str
    split: Split
    context_length: int
    prepend_bos: bool
    hook: str


def conditions_of(run: Run, options: EvaluationOptions) -> Conditions:
    """The conditions that options, or else the run's own configuration, ask for.

    Raises:
        UsageError: if neither says the model, the hook point or the text.
    """
    needs = {
        "model": options.model or run.model,
        "hook": hook_of(options.hook or run.hook),
        "tokens": options.tokens or run.dataset,
    }
    for what, value in needs.items():
        if value is None:
            raise UsageError(run.path, f"does not say its {what}", f"pass --{what}")
        try:
            Path(value).exists()
        except OSError as error:
            reason = f"its {what} can be no name of one ({error.strerror})"
            raise UsageError(run.path, reason, f"pass --{what}") from None
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
        hook=str(needs["hook"]),
    )


def portions(runs: Iterable[Run]) -> Iterator[list[Run]]:
    """Runs in portions whose weights fit in memory together."""
    portion: list[Run] = []
    size = 0
    for run in runs:
        weights = 8 * run.d_in * run.d_sae
        if portion and (size + weights > _WEIGHT_BYTES or len(portion) == _MOST_RUNS):
            yield portion
            portion, size = [], 0
        portion.append(run)
        size += weights
    if portion:
        yield portion
