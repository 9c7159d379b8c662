"""The README's pictures: the first screen of the demo's report and its frontier, light and dark.

    python docs/pictures/screens.py demo/report.html

writes them anew, beside this file; `nox -s pictures` makes the demo first. It needs Chromium.
"""

import argparse
from pathlib import Path

from playwright.sync_api import ViewportSize, sync_playwright

from prolu_eval.render.browser import find_browser

# In pixels. Narrower windows cut the table of savings, which the page then scrolls.
WINDOW = ViewportSize(width=1360, height=920)
FRONTIER = "#g0-l0-ce_degradation .js-plotly-plot"


def draw(page: Path, folder: Path) -> None:
    """Write first-screen-SCHEME.png and frontier-SCHEME.png for both colour schemes."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            tab = browser.new_page(viewport=WINDOW, color_scheme=scheme)
            tab.goto(page.resolve().as_uri())
            figure = tab.locator(FRONTIER).first
            figure.locator(".main-svg").first.wait_for()
            tab.screenshot(path=folder / f"first-screen-{scheme}.png")
            figure.screenshot(path=folder / f"frontier-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, help="the demo's report.html")
    draw(parser.parse_args().page, Path(__file__).parent)
