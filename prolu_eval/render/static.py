"""The report's figures as files for papers, drawn by a browser that is installed already."""

import base64
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import unquote

from prolu_eval.errors import UsageError
from prolu_eval.render.environment import rendered
from prolu_eval.results import write_atomically

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "microsoft-edge")
_SECONDS = 300
_WIDEST = 40.0
FORMATS = ("pdf", "svg", "png")
# Of a browser, per inch.
_PIXELS = 96
# Height over width.
_SHAPE = 0.8


def find_browser() -> str:
    """A Chromium or its like on the path.

    Raises:
        UsageError: if there is none.
    """
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    raise UsageError(
        "--static", f"needs a browser, and none of {', '.join(BROWSERS)} is on the path",
        "install chromium, or open the report and use each figure's camera button",
    )  # fmt: skip


def write_figures(
    page: Path,
    folder: Path,
    kind: str = "svg",
    *,
    width: float = 6.75,
    font_size: float = 8.0,
    font: str = "sans-serif",
) -> list[Path]:
    """Write every figure of a report as PDF, SVG or PNG, in light colours. The files' paths.

    A file is named by what it shows: the two metrics, or the variant or run that it is of. Of runs
    it is those whose details come first, one a variant.

    Args:
        page: the report.
        folder: for the files.
        kind: pdf, svg or png.
        width: in inches; a column of a paper with two is 3.25, both are 6.75.
        font_size: of all text, in points.
        font: its family, which the machine that draws or shows it has.

    Raises:
        UsageError: if there is no browser, ``kind`` is none of these, a size is none, or the
            browser does not draw.
        ResultsError: if a file cannot be written.
    """
    if kind not in FORMATS:
        raise UsageError(
            "--format", f"{kind!r} is no format for figures", f"choose {', '.join(FORMATS)}"
        )
    if not 1 <= width <= _WIDEST:
        raise UsageError("--width", f"{width:g} is no width of a figure", "name inches, 1 to 40")
    if not 1 <= font_size <= _WIDEST:
        raise UsageError("--font-size", f"{font_size:g} is no size", "name points, 1 to 40")
    pixels = round(_PIXELS * width)
    asked = {
        "kind": "png" if kind == "png" else "svg",
        "width": pixels,
        "height": round(_SHAPE * pixels),
        "scale": 3 if kind == "png" else 1,
        "size": round(_PIXELS / 72 * font_size, 2),
        "font": font,
    }
    script = f"<script>{rendered('static.js', asked=asked)}</script>"
    browser = find_browser()
    paths: list[Path] = []
    for name, url in _drawn(browser, page.read_text(encoding="utf-8"), script, pixels):
        stem = re.sub(r"[^\w.+-]+", "_", name)
        taken = sum(path.stem == stem for path in paths)
        path = folder / f"{stem}{f'-{taken + 1}' if taken else ''}.{kind}"
        head, _, content = url.partition(",")
        image = base64.b64decode(content) if head.endswith("base64") else unquote(content).encode()
        data = _printed(browser, image.decode()) if kind == "pdf" else image
        write_atomically(path, data)
        paths.append(path)
    return paths


def _drawn(browser: str, page: str, script: str, width: int) -> list[tuple[str, str]]:
    """Names and data URLs of a page's figures, on a screen of some pixels' width."""
    light = page.replace('<html lang="en">', '<html lang="en" data-theme="light">', 1)
    head, _, tail = light.rpartition("</body>")
    said, content = _run(
        browser, f"{head}{script}</body>{tail}", f"--window-size={width},900",
        "--virtual-time-budget=120000", "--dump-dom",
    )  # fmt: skip
    found = re.search(r'id="images">([^<]*)<', content)
    if not found:
        raise UsageError(browser, f"does not draw figures ({said})", "try another browser")
    return [(name, url) for name, url in json.loads(base64.b64decode(found[1]))]


def _printed(browser: str, svg: str) -> bytes:
    """An SVG image as the only page of a PDF, which is as large as the image."""
    width, height = re.findall(r'(?:width|height)="([0-9.]+)"', svg[: svg.index(">")])[:2]
    page = (
        f"<!doctype html><meta charset='utf-8'><style>@page {{ size: {width}px {height}px; "
        f"margin: 0 }} body {{ margin: 0 }} svg {{ display: block }}</style>{svg}"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figure.pdf"
        said, _ = _run(browser, page, "--no-pdf-header-footer", f"--print-to-pdf={path}")
        if not path.is_file():
            raise UsageError(browser, f"does not print figures ({said})", "try another browser")
        return path.read_bytes()


def _run(browser: str, page: str, *options: str) -> tuple[str, str]:
    """Open a page in a browser without a window; its last complaint, and its output."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_text(page, encoding="utf-8")
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={folder}/profile", *options, path.as_uri(),
        ]  # fmt: skip
        try:
            done = subprocess.run(  # noqa: S603
                command, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UsageError(browser, f"does not draw figures ({error})", "try another") from None
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"exit code {done.returncode}", done.stdout
