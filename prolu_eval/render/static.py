"""The report's figures as files for papers, drawn by a browser that is installed already."""

import base64
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from prolu_eval.errors import UsageError
from prolu_eval.results import write_atomically

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "microsoft-edge")
_SECONDS = 300
# Draws every figure, and leaves the images in the page for the browser to print.
_SCRIPT = """
<script>
addEventListener("load", async () => {
  await Report.drawAll();
  const images = {};
  for (const plot of document.querySelectorAll(".plot")) {
    const size = { width: 800, height: 500, scale: %d };
    images[plot.id] = await Plotly.toImage(plot, { format: "%s", ...size });
  }
  const output = document.createElement("script");
  output.type = "application/json";
  output.id = "images";
  output.textContent = btoa(JSON.stringify(images));
  document.body.replaceChildren(output);
});
</script>
"""


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


def write_figures(page: Path, folder: Path, kind: str = "svg") -> list[Path]:
    """Write every figure of a report as SVG or PNG, in light colours. The files' paths.

    Raises:
        UsageError: if there is no browser, ``kind`` is neither, or the browser does not draw.
        ResultsError: if a file cannot be written.
    """
    if kind not in ("svg", "png"):
        raise UsageError("--format", f"{kind!r} is no format for figures", "choose svg or png")
    images = _drawn(find_browser(), page.read_text(encoding="utf-8"), kind)
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


def _drawn(browser: str, page: str, kind: str) -> dict[str, str]:
    """Data URLs of a page's figures, by the ids of their elements."""
    script = _SCRIPT % (1 if kind == "svg" else 2, kind)
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
