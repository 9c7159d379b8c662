"""The report's figures as files for papers, drawn by a browser that is installed already."""

import base64
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from prolu_eval.errors import UsageError
from prolu_eval.render.environment import rendered
from prolu_eval.results import write_atomically

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "microsoft-edge")
_SECONDS = 300
_WIDEST = 40.0
# Of a browser, per inch.
_PIXELS = 96
# Height over width.
_SHAPE = 0.72


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
) -> list[Path]:
    """Write every figure of a report as SVG or PNG, in light colours. The files' paths.

    Args:
        page: the report.
        folder: for the files.
        kind: svg or png.
        width: in inches; a column of a paper with two is 3.25, both are 6.75.
        font_size: of all text, in points.

    Raises:
        UsageError: if there is no browser, ``kind`` is neither, a size is none, or the browser does
            not draw.
        ResultsError: if a file cannot be written.
    """
    if kind not in ("svg", "png"):
        raise UsageError("--format", f"{kind!r} is no format for figures", "choose svg or png")
    if not 1 <= width <= _WIDEST:
        raise UsageError("--width", f"{width:g} is no width of a figure", "name inches, 1 to 40")
    if not 1 <= font_size <= _WIDEST:
        raise UsageError("--font-size", f"{font_size:g} is no size", "name points, 1 to 40")
    asked = {
        "kind": kind,
        "width": round(_PIXELS * width),
        "height": round(_PIXELS * width * _SHAPE),
        "scale": 1 if kind == "svg" else 3,
        "size": round(_PIXELS / 72 * font_size, 2),
    }
    script = f"<script>{rendered('static.js', asked=asked)}</script>"
    images = _drawn(find_browser(), page.read_text(encoding="utf-8"), script)
    paths = []
    for identity, url in images.items():
        path = folder / f"{identity.removesuffix('-plot')}.{kind}"
        head, _, content = url.partition(",")
        data = base64.b64decode(content) if head.endswith("base64") else _decoded(content)
        write_atomically(path, data)
        paths.append(path)
    return paths


def _decoded(content: str) -> bytes:
    from urllib.parse import unquote

    return unquote(content).encode()


def _drawn(browser: str, page: str, script: str) -> dict[str, str]:
    """Data URLs of a page's figures, by the ids of their elements."""
    light = page.replace('<html lang="en">', '<html lang="en" data-theme="light">', 1)
    head, _, tail = light.rpartition("</body>")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_text(f"{head}{script}</body>{tail}", encoding="utf-8")
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={folder}/profile", "--window-size=1280,900",
            "--virtual-time-budget=120000", "--dump-dom", path.as_uri(),
        ]  # fmt: skip
        try:
            done = subprocess.run(  # noqa: S603
                command, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UsageError(browser, f"does not draw figures ({error})", "try another") from None
    found = re.search(r'id="images">([^<]*)<', done.stdout)
    if not found:
        said = done.stderr.strip().splitlines()
        reason = said[-1] if said else f"exit code {done.returncode}"
        raise UsageError(browser, f"does not draw figures ({reason})", "try another browser")
    images: dict[str, str] = json.loads(base64.b64decode(found[1]))
    return images
