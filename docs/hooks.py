"""What building the site adds to its Markdown: generated tables, links into the repository, MathML.

A page asks for a table with a line ``<!-- generated: NAME -->``, which is one of
:data:`generated.TABLES`. Links that leave ``docs/`` are written as they are in the repository
(``../reports/README.md``), so that they work there too; the site has the repository's address.
"""

import html
import json
import os
import re
from functools import partial
from pathlib import Path, PurePosixPath

from generated import TABLES, schemas
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
_MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
_OUTWARD = re.compile(r"\]\((\.\./[^)#\s]*)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The site's files with the JSON Schemas of what is stored."""
    for name, schema in schemas().items():
        place = f"schemas/{name}"
        content = json.dumps({"$id": f"{config.site_url}{place}", **schema}, indent=2)
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page's text with its generated tables, and with addresses for links out of ``docs/``."""
    outward = partial(_outward, page=page.file.src_uri, repository=config.repo_url or "")
    return _OUTWARD.sub(outward, _MARKER.sub(_table, markdown))


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page's HTML with MathML in the place of TeX, so that no script has to draw formulas."""
    return _FORMULA.sub(_mathml, content)


def _table(marker: re.Match[str]) -> str:
    if marker[1] not in TABLES:
        raise PluginError(f"{marker[0]}: no such table; choose {', '.join(TABLES)}")
    return TABLES[marker[1]]()


def _outward(link: re.Match[str], page: str, repository: str) -> str:
    place = os.path.normpath(PurePosixPath("docs") / PurePosixPath(page).parent / link[1])
    if PurePosixPath(place).parts[0] == "docs":
        return link[0]
    if not (ROOT / place).exists():
        raise PluginError(f"{page}: links to {place}, which is not in the repository")
    kind = "tree" if (ROOT / place).is_dir() else "blob"
    return f"]({repository}/{kind}/main/{place}"


def _mathml(formula: re.Match[str]) -> str:
    display = "block" if formula[1] == "div" else "inline"
    return str(convert(html.unescape(formula[2]), display=display))
