"""The report: one self-contained HTML file, written from stored results."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prolu_eval import __version__
from prolu_eval.analysis import (
    Answer,
    Group,
    group_frontier,
    n_replicates,
    ratios,
    resample,
    statement,
)
from prolu_eval.analysis.chance import about_chance
from prolu_eval.analysis.overlap import l0_diagnostic
from prolu_eval.analysis.statement import at_budgets, headline
from prolu_eval.estimates import number
from prolu_eval.metrics import METRICS
from prolu_eval.render.better import about_better, better_of, better_table
from prolu_eval.render.chance import chance_part
from prolu_eval.render.condensed import condensed
from prolu_eval.render.environment import plotly_library, rendered
from prolu_eval.render.explorer import explorer_document
from prolu_eval.render.features import ARRAYS, LAYERED, LOGGED, MOST_HISTOGRAMS
from prolu_eval.render.figures import TOPICS, VIEWS, has_all
from prolu_eval.render.looks import Look, looks
from prolu_eval.render.page_document import TABLE, constants, environments, group_document
from prolu_eval.render.references import ReferencePoint, add_references
from prolu_eval.render.tables import (
    Table,
    budget_tables,
    folder_tables,
    saving_matrix,
    saving_table,
    variant_table,
)
from prolu_eval.results import write_atomically

# The number of variants whose L1 at equal L0 is stated, the first compared with the others.
_COMPARED = 4


def write_report(
    answers: Sequence[Answer],
    path: Path,
    *,
    title: str = "Sparse autoencoders compared",
    command: str | None = None,
    refresh: int | None = None,
    references: Sequence[ReferencePoint] = (),
) -> Path:
    """Write the report of answered groups, each in sections of its own.

    Args:
        answers: the answers, as :func:`~prolu_eval.analysis.answer` returns them.
        path: the file to write.
        title: the title of the page.
        command: the command that writes the same page again, shown on the page.
        refresh: seconds after which a browser reloads the page; None for never.
        references: points measured by other tools, to be shown in the figures.

    Raises:
        ResultsError: if the file cannot be written.
    """
    styles = looks([label for answer in answers for label in answer.group.labels])
    parts = [_part(answer, styles, i, references) for i, answer in enumerate(answers)]
    explorer = explorer_document([answer.group for answer in answers])
    data = {
        "explorer": explorer,
        "logged": LOGGED,
        "layered": LAYERED,
        "groups": [condensed(part.pop("document")) for part in parts],
        "metrics": {key: {"title": m.title, "unit": m.unit} for key, m in METRICS.items()},
        "table": TABLE,
    }
    page = rendered(
        "page.html.j2",
        title=title,
        command=command,
        refresh=refresh,
        version=__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        groups=parts,
        data=data,
        metrics=METRICS,
        topic_titles=TOPICS,
        arrays=ARRAYS,
        most_histograms=MOST_HISTOGRAMS,
        explorer=explorer,
        named=_named,
        logged=LOGGED,
        keys=answers[0].details.keys,
        plotly=plotly_library(),
    )
    write_atomically(path, page.encode())
    return path


def _named(parts: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The keys and titles of the entries that can be chosen."""
    return [(key, part["title"]) for key, part in parts.items()]


def _part(
    part: Answer, styles: Mapping[str, Look], index: int, references: Sequence[ReferencePoint]
) -> dict[str, Any]:
    """Everything that the template shows of one group."""
    group, answer = part.group, part.details
    views: set[tuple[str, ...]] = {(view.x, view.y) for view in VIEWS if view.frontier}
    views -= {answer.keys}
    measured = [keys for keys in sorted(views) if has_all(group, *keys)]
    suppressed = [key for key in ("l1", "sqrt_l1") if has_all(group, "l0", key)]
    columns = ["l0", *suppressed, *(key for keys in measured for key in keys)]
    replicates = resample(group, columns, n_replicates(group))
    others = {keys: group_frontier(group, *keys, replicates=replicates) for keys in measured}
    labels = [variant.label for variant in answer.variants][:_COMPARED]
    document = group_document(group, answer, others, f"g{index}", styles)
    document = add_references(document, group.results[0].run.hook, references)
    document["styles"] = {label: styles[label] for label in group.labels}
    features = document["features"]
    return {
        "id": document["id"],
        "title": document["title"],
        "sentence": _first_sentence(part),
        "statement": part.sentence,
        "asked": _asked(part),
        "matrix": saving_matrix(answer),
        "setting_in_brief": setting_in_brief(group),
        "main": document["views"][0] if document["views"] else None,
        "frontier": answer,
        "topics": {
            topic: [view for view in document["views"][1:] if view["topic"] == topic]
            for topic in TOPICS
        },
        "told": {topic: _told(group, topic) for topic in TOPICS},
        "statements": {f"{a.keys[0]}-{a.keys[1]}": statement(a) for a in others.values()}
        | {
            f"l0-{key}": " ".join(map(str, ratios(group, key, "l0", labels, replicates)))
            for key in suppressed
        },
        "better": _better(part),
        "chance": chance_part(part),
        "variants": variant_table(answer),
        "savings": saving_table(answer),
        "splits": [
            (title, split.sentence, variant_table(split.details))
            for title, split in part.splits.items()
        ],
        "styles": document["styles"],
        "counts": {"training": len(features["training"])},
        "logged": [k for k in LOGGED if any(k in run for run in features["training"].values())],
        "histograms": list(features["histograms"]),
        "n_runs": len(group.results),
        "setting": group.results[0].setting.model_dump(),
        "environments": environments(group),
        "document": document,
    }


def _better(answer: Answer) -> dict[str, Any] | None:
    found = better_of(answer)
    if found is None:
        return None
    return {"sentence": found.sentence, "about": about_better(found), "table": better_table(found)}


def _told(group: Group, topic: str) -> str:
    """What there is to say of a topic beside its figures."""
    diagnostic = l0_diagnostic(group) if topic == "geometry" else []
    return " ".join(filter(None, [*diagnostic, _constant(group, topic)]))


def _constant(group: Group, topic: str) -> str:
    """Sentences on the metrics of a topic that have the same value for every run."""
    keys = {view.y for view in VIEWS if view.topic == topic}
    same = {key: value for key, value in constants(group).items() if key in keys}
    told = (
        f"{METRICS[key].title} is {number(value)} for every run." for key, value in same.items()
    )
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in told)


def _first_sentence(answer: Answer) -> str:
    """The text of the first screen: which variants lead and by how much, or how folders compare."""
    if answer.folders:
        return answer.sentence
    found = [headline(answer.details), *about_chance(answer.chance)]
    found += [f"{answer.question.instead}."] if answer.question.instead else []
    return " ".join([*found, *at_budgets(answer.question.keys, answer.at)])


def _asked(answer: Answer) -> list[tuple[str, Table]]:
    """The tables of what was asked besides the frontier, each with its caption."""
    tables = [
        (f"Variants {table[0][1]}, with 95 % intervals", table) for table in budget_tables(answer)
    ]
    tables += [(f"{table[0][0]}, with 95 % intervals", table) for table in folder_tables(answer)]
    return tables


def setting_in_brief(group: Group) -> dict[str, str]:
    """What was measured, in a few words that hold for all runs of the group."""
    setting = group.results[0].setting
    seeds = sorted({int(seed) for seed in group.table["seed"].dropna()})
    widths = sorted({result.run.d_sae for result in group.results})
    unfinished = sum(result.run.not_converged is not None for result in group.results)
    remarkable = {"not converged": f"{unfinished} runs"} if unfinished else {}
    if group.raced:
        lost = sum(result.dropped is not None for result in group.raced)
        whole = max(result.setting.n_counted for result in group.raced)
        remarkable["left a race"] = f"{lost} runs; the others have {whole:,} tokens"
    return {
        "model": setting.model,
        "hook": group.results[0].run.site or "unknown",
        "text": setting.tokens,
        "tokens": f"{setting.n_counted:,}",
        "runs": str(len(group.results)),
        "seeds": str(len(seeds) or "unknown"),
        "dictionary size": ", ".join(map(str, widths[:4])) + (", ..." if len(widths) > 4 else ""),
        **remarkable,
    }
