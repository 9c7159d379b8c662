"""The Jinja environment in which all pages are rendered."""

from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prolu_eval import json_text
from prolu_eval.estimates import SIGNIFICANT, number


def rendered(template: str, **values: Any) -> str:
    """A template filled with values, all of them escaped; a missing value is an error."""
    environment = Environment(
        loader=PackageLoader("prolu_eval.render"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals["digits"] = SIGNIFICANT
    environment.filters |= {"number": number, "embedded": embedded}
    return environment.get_template(template).render(**values)


def embedded(document: Any) -> Markup:
    """A document as JSON that can safely be put inside a script element.

    Raises:
        ValueError: if a number is not finite.
    """
    text = json_text.dumps_compact(document)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704


def plotly_library() -> Markup:
    """Plotly's JavaScript, to be embedded in the page.

    This is the basic bundle, which has the only kind of trace that pages draw. It is a quarter of
    the full library in size, and in the time that a browser takes to load it before the first
    figure.
    """
    script = resources.files("prolu_eval.render") / "vendored" / "plotly-basic.min.js"
    return Markup(script.read_text(encoding="utf-8"))  # noqa: S704
