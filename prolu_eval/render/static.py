"""The report's figures as files for papers, drawn by a browser that is already installed."""

import base64
import re
from pathlib import Path
from urllib.parse import unquote

from prolu_eval.errors import UsageError
from prolu_eval.render.browser import Browser, find_browser
from prolu_eval.render.environment import rendered
from prolu_eval.results import write_atomically
from prolu_eval.spelling import suggesting

_WIDEST = 40.0
FORMATS = ("pdf", "svg", "png")
# A browser's pixels per inch.
_PIXELS = 96
# The height of a figure divided by its width.
_SHAPE = 0.8


def write_figures(
    page: Path,
    folder: Path,
    kind: str = "svg",
    *,
    width: float = 6.75,
    font_size: float = 8.0,
    font: str = "sans-serif",
) -> list[Path]:
    """Write every figure of a report as PDF, SVG or PNG, in light colours.

    A file is named after what it shows: the two metrics, or the variant or run. Figures of single
    runs are written for one run of each variant, the one whose details come first.

    Args:
        page: the report.
        folder: the folder for the files.
        kind: pdf, svg or png.
        width: the width in inches; 3.25 is one column of a two-column paper, 6.75 is both.
        font_size: the size of all text, in points.
        font: the font family, which must be installed where the figure is drawn or shown.

    Returns:
        The files' paths.

    Raises:
        UsageError: if there is no browser, if ``kind`` is another one, if a size is out of range,
            or if the browser fails to draw.
        ResultsError: if a file cannot be written.
    """
    if kind not in FORMATS:
        raise UsageError(
            "--format",
            f"{kind!r} is not a format for figures",
            suggesting(kind, FORMATS, f"choose {', '.join(FORMATS)}"),
        )
    if not 1 <= width <= _WIDEST:
        raise UsageError("--width", f"{width:g} is out of range", "give inches, 1 to 40")
    if not 1 <= font_size <= _WIDEST:
        raise UsageError("--font-size", f"{font_size:g} is out of range", "give points, 1 to 40")
    pixels = round(_PIXELS * width)
    asked = {
        "kind": "png" if kind == "png" else "svg",
        "width": pixels,
        "height": round(_SHAPE * pixels),
        "scale": 3 if kind == "png" else 1,
        "size": round(_PIXELS / 72 * font_size, 2),
        "font": font,
    }
    paths: list[Path] = []
    with Browser(find_browser(), pixels) as browser:
        browser.open(page)
        for name, url in browser.value_of(rendered("static.js", asked=asked)):
            stem = re.sub(r"[^\w.+-]+", "_", name)
            taken = sum(path.stem == stem for path in paths)
            path = folder / f"{stem}{f'-{taken + 1}' if taken else ''}.{kind}"
            _, _, content = url.partition(",")
            if kind == "pdf":
                content = browser.printed(_on_a_page(unquote(content)))
            image = unquote(content).encode() if kind == "svg" else base64.b64decode(content)
            write_atomically(path, image)
            paths.append(path)
    return paths


def _on_a_page(svg: str) -> str:
    """An HTML document whose single page has the size of the SVG image on it."""
    width, height = re.findall(r'(?:width|height)="([0-9.]+)"', svg[: svg.index(">")])[:2]
    return (
        f"<!doctype html><meta charset='utf-8'><style>@page {{ size: {width}px {height}px; "
        f"margin: 0 }} body {{ margin: 0 }} svg {{ display: block }}</style>{svg}"
    )
