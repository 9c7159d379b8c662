"""The report: one HTML file that needs nothing else, from stored results alone."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prolu_eval import __version__
from prolu_eval.analysis import (
    Frontier,
    Group,
    frontier,
    n_replicates,
    ratios,
    resample,
    slack,
    statement,
)
from prolu_eval.analysis.slack import PROXY, TARGET
from prolu_eval.metrics import METRICS
from prolu_eval.render.environment import plotly_library, rendered
from prolu_eval.render.features import ARRAYS
from prolu_eval.render.figures import TOPICS, VIEWS, styles
from prolu_eval.render.page_document import TABLE, environments, group_document, has_all
from prolu_eval.render.tables import saving_table, variant_table
from prolu_eval.results import write_atomically

# Variants whose L1 at equal L0 is stated, the first against the others.
_COMPARED = 4


def write_report(
    answers: Sequence[tuple[Group, Frontier]],
    path: Path,
    *,
    title: str = "Sparse autoencoders compared",
    command: str | None = None,
    refresh: int | None = None,
) -> Path:
    """Write the report of answered groups; each stands apart.

    Args:
        answers: as :func:`answer_results` gives them.
        path: the file.
        title: of the page.
        command: that makes the page again, to be shown on it.
        refresh: seconds after which a browser is to load the page again; None for never.

    Raises:
        ResultsError: if the file cannot be written.
    """
    looks = styles([label for group, _ in answers for label in group.labels])
    parts = [_part(group, answer, looks, i) for i, (group, answer) in enumerate(answers)]
    data = {
        "groups": [part.pop("document") for part in parts],
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
        plotly=plotly_library(),
    )
    write_atomically(path, page.encode())
    return path


def _part(
    group: Group, answer: Frontier, looks: Mapping[str, tuple[str, str]], index: int
) -> dict[str, Any]:
    """Everything the template shows of one group."""
    views: set[tuple[str, ...]] = {(view.x, view.y) for view in VIEWS if view.frontier}
    views -= {answer.keys}
    measured = [keys for keys in sorted(views) if has_all(group, *keys)]
    suppressed = [key for key in ("l1", "sqrt_l1") if has_all(group, "l0", key)]
    columns = ["l0", *suppressed, *(key for keys in measured for key in keys)]
    replicates = resample(group, columns, n_replicates(group))
    others = {keys: frontier(group, *keys, replicates=replicates) for keys in measured}
    labels = [variant.label for variant in answer.variants][:_COMPARED]
    document = group_document(group, answer, others, f"g{index}")
    document["styles"] = {label: looks[label] for label in group.labels}
    features = document["features"]
    return {
        "id": document["id"],
        "title": document["title"],
        "sentence": statement(answer),
        "frontier": answer,
        "topics": {
            topic: [view for view in document["views"] if view["topic"] == topic]
            for topic in TOPICS
        },
        "statements": {f"{a.keys[0]}-{a.keys[1]}": statement(a) for a in others.values()}
        | {
            f"l0-{key}": " ".join(map(str, ratios(group, key, "l0", labels, replicates)))
            for key in suppressed
        },
        "variants": variant_table(answer),
        "savings": saving_table(answer),
        "stretches": [
            (title, statement(stretch), variant_table(stretch))
            for title, stretch in answer.stretches.items()
        ],
        "slack": slack(group) if has_all(group, *TARGET, *PROXY) else None,
        "styles": document["styles"],
        "counts": {name: len(features[name]) for name in ("tables", "histories", "curves")},
        "histograms": list(features["histograms"]),
        "n_runs": len(group.results),
        "setting": group.results[0].setting.model_dump(),
        "environments": environments(group),
        "document": document,
    }
