"""GitHub Actions: the job summary, annotations and outputs, written without an option."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from prolu_eval.comparison.verdicts import Comparison, Judgement
from prolu_eval.errors import ResultsError
from prolu_eval.json_text import line_of
from prolu_eval.render.markdown import comparison_markdown

# GitHub shows at most this many annotations of each kind for a step.
_MOST = 10


def running(environment: Mapping[str, str]) -> bool:
    """Whether this is a job of GitHub Actions."""
    return environment.get("GITHUB_ACTIONS") == "true"


def tell(comparison: Comparison, environment: Mapping[str, str]) -> None:
    """Append the Markdown to the job's summary, and the verdict to the step's outputs.

    Raises:
        ResultsError: if a file that the environment names cannot be written.
    """
    _append("GITHUB_STEP_SUMMARY", comparison_markdown(comparison), environment)
    _append("GITHUB_OUTPUT", f"verdict={comparison.verdict}\n", environment)


def _append(variable: str, text: str, environment: Mapping[str, str]) -> None:
    if path := environment.get(variable):
        try:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            reason = f"cannot be written ({error.strerror})"
            raise ResultsError(path, reason, f"check the path in {variable}") from None


def annotations(
    comparison: Comparison, baseline: Path, environment: Mapping[str, str]
) -> Iterator[str]:
    """Workflow commands: errors at the lines of failing runs in the baseline, warnings, notices."""
    text = baseline.read_text(encoding="utf-8")
    place = _relative(baseline, environment)
    failing: dict[str, list[Judgement]] = {}
    for row in comparison.rows:
        if row.verdict in ("regression", "incomparable"):
            failing.setdefault(row.run, []).append(row)
    for run, rows in list(failing.items())[: _MOST - (len(failing) > _MOST)]:
        key = ("runs", run, "metrics", rows[0].metric or "")
        said = "\n".join(f"{row.metric or 'run'}: {row.explanation}" for row in rows)
        title = f"{rows[0].verdict} of {run}"
        yield _command("error", said, file=place, line=line_of(text, key), title=title)
    if len(failing) > _MOST:
        more = f"{len(failing) - _MOST + 1} more runs fail; see the job's summary"
        yield _command("error", more, file=place, line=1, title=f"prolu-eval: {comparison.verdict}")
    if few := comparison.too_few_tokens:
        title = "prolu-eval: a regression could be missed"
        yield _command("warning", "\n".join(few), file=place, line=1, title=title)
    better = sorted({row.run for row in comparison.rows if row.verdict == "improvement"})
    if better:
        said = f"{', '.join(better)}\nTo accept: {comparison.update}"
        yield _command("notice", said, file=place, line=1, title=f"{len(better)} runs improved")


def _relative(path: Path, environment: Mapping[str, str]) -> str:
    root = Path(environment.get("GITHUB_WORKSPACE") or Path.cwd()).resolve()
    resolved = path.resolve()
    return str(resolved.relative_to(root) if resolved.is_relative_to(root) else path)


def _command(kind: str, message: str, **properties: object) -> str:
    shown = ",".join(f"{key}={_property(str(value))}" for key, value in properties.items())
    return f"::{kind} {shown}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
