"""Model cards: README.md with metadata, tables of results, and the frontier's figure."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from prolu_eval.analysis import Answer
from prolu_eval.errors import UsageError
from prolu_eval.render.browser import find_browser
from prolu_eval.render.markdown import frontier_markdown
from prolu_eval.render.page import write_report
from prolu_eval.render.static import write_figures
from prolu_eval.results import write_atomically

CARD, FIGURE = "README.md", "frontier.svg"
_BEGIN, _END = "<!-- prolu-eval: results -->", "<!-- prolu-eval: end of results -->"
_METADATA = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def write_card(answers: Sequence[Answer], folder: Path, *, figure: bool = True) -> list[Path]:
    """Write the results of a folder of runs into its model card.

    In an existing card, only the part that an earlier call wrote between its marks is replaced, and
    metadata is added if the card has none. Without a figure no browser is needed.

    Args:
        answers: the answers for the groups of results, the largest group first.
        folder: the folder of the runs.
        figure: whether to draw the first group's frontier too.

    Returns:
        The files that were written.

    Raises:
        ResultsError: if a file cannot be written.
        UsageError: if the figure cannot be drawn, or if the existing card is not UTF-8 text.
    """
    path, written = folder / CARD, []
    try:
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
    except UnicodeDecodeError:
        raise UsageError(path, "is not UTF-8 text", "move it to another folder") from None
    if figure:
        _draw(answers, folder / FIGURE)
        written.append(folder / FIGURE)
    part = "\n\n".join([
        _BEGIN,
        *([f"![The frontier]({FIGURE})"] if figure else []),
        *map(frontier_markdown, answers),
        "Measured with [prolu-eval](https://pypi.org/project/prolu-eval/).",
        _END,
    ])  # fmt: skip
    write_atomically(path, _with_part(before, part, answers).encode())
    return [path, *written]


def _with_part(before: str, part: str, answers: Sequence[Answer]) -> str:
    """A card with the part between the marks replaced, or added at the end."""
    if not _METADATA.match(before):
        before = _metadata(answers) + ("\n" + before if before else "\n# Sparse autoencoders\n")
    begin, end = before.find(_BEGIN), before.find(_END)
    if 0 <= begin < end:
        return before[:begin] + part + before[end + len(_END) :]
    return before.rstrip("\n") + "\n\n" + part + "\n"


def _metadata(answers: Sequence[Answer]) -> str:
    """The metadata by which the hub lists a repository."""
    settings = [result.setting for answer in answers for result in answer.group.results]
    models = dict.fromkeys(s.model for s in settings if _HUB_NAME.fullmatch(s.model))
    lines = ["---", "tags:", "- sparse-autoencoder", "- interpretability"]
    if models:
        lines += ["base_model:", *(f"- {model}" for model in models)]
    return "\n".join([*lines, "---", ""])


def _draw(answers: Sequence[Answer], path: Path) -> None:
    find_browser()
    with tempfile.TemporaryDirectory() as place:
        page = write_report(answers[:1], Path(place, "page.html"))
        first = write_figures(page, Path(place), "svg")[0]
        write_atomically(path, first.read_bytes())
