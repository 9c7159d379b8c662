"""Opening pages in a browser, in every width and theme, and checking their silence and access."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Widths in pixels, and the theme that the reader prefers.
EVERYWHERE = [(1440, "light"), (390, "light"), (1440, "dark"), (390, "dark")]


def opened_page(browser: Any, path: Path, width: int, scheme: str) -> Iterator[Any]:
    """The page opened; closing checks that nothing was logged or fetched."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
    )
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda r: said.append(r.url) if r.url.startswith("http") else None)
    page.goto(path.as_uri())
    page.wait_for_function("typeof Report === 'object'")
    yield page
    assert said == []
    context.close()


def violations(page: Any) -> list[tuple[str, list[str]]]:
    """The rules of axe-core that a page violates, and the elements that violate them."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    options = {"exclude": [[".plot"]]}  # Plotly's drawing has a label and a CSV instead
    found = axe.Axe().run(page, context=options).response["violations"]
    return [(v["id"], [node["html"][:120] for node in v["nodes"][:3]]) for v in found]


def has_asked_colours(page: Any) -> bool:
    """Whether the page is white for readers who prefer light, and only for them."""
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    return bool((paper == "rgb(255, 255, 255)") != dark)
