"""The documentation's site builds without a warning, and every link inside the project resolves."""

import json
import logging
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import jsonschema
import numpy as np
import pytest
from markdown_it import MarkdownIt
from mkdocs.commands.build import build
from mkdocs.config import load_config

import prolu_eval
from prolu_eval import baseline, results
from prolu_eval.analysis import Question, answer
from prolu_eval.checkpoints import FORMATS
from prolu_eval.comparison import documents as comparison_documents
from prolu_eval.metrics import METRICS
from prolu_eval.render import documents as render_documents
from prolu_eval.render.documents import frontier_document, result_document, run_document
from prolu_eval.results import Result
from prolu_eval.results.store import write_result
from prolu_eval.saes import OF_SEVERAL_SITES, VARIANTS
from prolu_eval.training.config import Shared, Sweep, SweepFile, Within
from tests.conftest import ROOT
from tests.helpers.cli import run
from tests.helpers.pages import DOCS, PAGES
from tests.helpers.synthetic import THRESHOLDS, Sae, result, sweep

REPOSITORY = "https://github.com/prolu-eval/prolu-eval"
SITE = "https://prolu-eval.github.io/prolu-eval/"
# Pages that the site has not: their links are those of the repository.
OUTSIDE = [page for page in PAGES if not page.is_relative_to(DOCS)]


class _Page(HTMLParser):
    """The links and the anchors of a page, and what it would load from elsewhere."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.anchors.update(given[name] for name in ("id", "name") if name in given)
        is_loaded = tag != "a" and given.get("rel") not in ("canonical", "next", "prev")
        for name in ("href", "src"):
            if name in given:
                (self.loaded if is_loaded else self.links).append(given[name])


@dataclass(frozen=True)
class Site:
    """A built site, and what building it warned of."""

    folder: Path
    warnings: list[str]
    _read: dict[Path, _Page] = field(default_factory=dict)

    @property
    def pages(self) -> list[Path]:
        """Its HTML files; that of what is not found has its links from the site's root."""
        return sorted(p for p in self.folder.rglob("*.html") if p.name != "404.html")

    def page(self, path: Path) -> _Page:
        """A page, read once."""
        if path not in self._read:
            self._read[path] = _Page(path)
        return self._read[path]

    def lacks(self, target: Path, anchor: str) -> bool:
        """Whether a file of it, or an anchor in that, is not there."""
        file = target / "index.html" if target.is_dir() else target
        if not file.is_file():
            return True
        return bool(anchor) and anchor not in self.page(file).anchors


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The site, built once."""
    folder = tmp_path_factory.mktemp("site")
    warnings: list[str] = []

    class _Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warnings.append(record.getMessage())

    keep = _Keep(logging.WARNING)
    logging.getLogger("mkdocs").addHandler(keep)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
        build(config)
    logging.getLogger("mkdocs").removeHandler(keep)
    return Site(folder, warnings)


def test_it_builds_without_a_warning(site: Site) -> None:
    assert site.warnings == []
    assert len(site.pages) > 25


def test_every_link_of_the_site_resolves(site: Site) -> None:
    broken = []
    for path in site.pages:
        for link in (*site.page(path).links, *site.page(path).loaded):
            parts = urlsplit(link)
            place, anchor = unquote(parts.path), unquote(parts.fragment)
            if link.startswith(f"{REPOSITORY}/"):
                broken += [(path, link)] if _lacks_file(link) else []
            elif not parts.scheme:
                target = path.parent / place if place else path
                broken += [(path, link)] if site.lacks(target, anchor) else []
    assert [(str(p.relative_to(site.folder)), link) for p, link in broken] == []


def _lacks_file(link: str) -> bool:
    """Whether an address in the repository names a file that is not there."""
    named = re.fullmatch(rf"{REPOSITORY}/(?:blob|tree)/main/([^#]*)(?:#.*)?", link)
    return named is not None and not (ROOT / named[1]).exists()


def test_a_page_asks_no_other_host_for_anything(site: Site) -> None:
    for path in site.pages:
        assert [link for link in site.page(path).loaded if urlsplit(link).scheme] == []
        text = path.read_text(encoding="utf-8")
        assert 'data-md-component="source"' not in text  # its script asks GitHub for stars


@pytest.mark.parametrize("page", OUTSIDE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_beside_the_site_resolves(page: Path, site: Site) -> None:
    for link in links_of(page.read_text(encoding="utf-8")):
        parts = urlsplit(link)
        if link.startswith(SITE):
            assert not site.lacks(site.folder / link[len(SITE) :].partition("#")[0], parts.fragment)
        elif not parts.scheme:
            target = page.parent / unquote(parts.path) if parts.path else page
            assert target.exists(), link
            if parts.fragment and target.suffix == ".md":
                assert parts.fragment in headings(target.read_text(encoding="utf-8")), link


def links_of(text: str) -> list[str]:
    """What a Markdown text links to and shows, in HTML too."""
    found = re.findall(r'(?:href|src|srcset)="([^"]+)"', text)
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        for child in token.children or ():
            link = child.attrGet("href") or child.attrGet("src")
            found += [str(link)] if link else []
    return found


def headings(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a Markdown text."""
    tokens = MarkdownIt("commonmark").parse(text)
    titles = [b.content for a, b in pairwise(tokens) if a.type == "heading_open"]
    return {
        re.sub(r"[^\w\- ]", "", title.replace("`", "")).strip().casefold().replace(" ", "-")
        for title in titles
    }


def test_links_and_headings_are_found() -> None:
    text = "# What it `reads`, in all\n\n[a](b.md#c) ![d](e.png)\n\n| [g](h) |\n|---|\n"
    assert sorted(links_of(text)) == ["b.md#c", "e.png", "h"]
    assert headings(text) == {"what-it-reads-in-all"}


def _reference(site: Site, name: str) -> _Page:
    return site.page(site.folder / "reference" / name / "index.html")


def test_the_reference_has_everything(site: Site) -> None:
    assert METRICS.keys() <= _reference(site, "metrics").anchors
    settings = _reference(site, "sweep_file").anchors
    for table, model in (("shared", Shared), ("within", Within), ("sweep", Sweep)):
        assert {f"{table}-{name}" for name in model.model_fields} <= settings
        for name, setting in model.model_fields.items():
            assert setting.description, f"{name} of [{table}] says nothing of its effect"
    assert "besidethetables-baselines" in settings
    assert "sweep" in SweepFile.model_fields
    formats = (site.folder / "reference" / "formats" / "index.html").read_text()
    for name in (*FORMATS, *VARIANTS, *OF_SEVERAL_SITES):
        assert f"<code>{name}</code>" in formats
    commands = _reference(site, "commands").anchors
    assert {"prolu-eval-sweep", "prolu-eval-baseline-save", "evaluate-n-tokens"} <= commands
    public = {f"prolu_eval.{name}" for name in prolu_eval.__all__ if not name.startswith("_")}
    assert public <= _reference(site, "python").anchors


def _schema(site: Site, name: str) -> Any:
    schema = json.loads((site.folder / "schemas" / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


def test_what_is_stored_has_the_published_schemas(site: Site, tmp_path: Path) -> None:
    schema = _schema(site, f"result-{results.SCHEMA_VERSION}")
    made = sweep()
    for one in made:
        document = json.loads(write_result(one, tmp_path).read_text())
        jsonschema.validate(document, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document | {"metrics": {"l0": 3}}, schema)
    kept = _schema(site, f"baseline-{baseline.SCHEMA_VERSION}")
    baseline.save_baseline(made, tmp_path / "baseline.json")
    for path in (tmp_path / "baseline.json", ROOT / "reports" / "baseline.json"):
        jsonschema.validate(json.loads(path.read_text()), kept)


def _has(schema: Any, document: dict[str, Any]) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(document))


def _stored(folder: Path, made: list[Result]) -> Path:
    for one in made:
        write_result(one, folder / one.run.name / "evaluation")
    return folder


def test_frontiers_have_the_published_schema(
    site: Site, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Documents of all kinds have it, and with wrong fields they have it not."""
    schema = _schema(site, f"frontier-{render_documents.SCHEMA_VERSION}")
    one, two = (np.arange(n) for n in (32, 24))
    runs = [
        *sweep(one),
        *(result(Sae("prolu", t), one, name=f"again/{t}", seed=1) for t in THRESHOLDS),
        *(result(Sae("relu", t, 0.9), one, name=f"chance/{t}", label="shuffled",
                 chance="shuffled") for t in THRESHOLDS),
    ]  # fmt: skip
    folder = _stored(tmp_path / "runs", runs)
    asked = ("--split", "l0=5", "--at", "l0=5", "--reference", "l0=20", "--json")
    printed = run(capfd, "report", folder, *asked, "-o", tmp_path / "page.html").json()
    assert all(printed[part] for part in ("surfaces", "chance", "better", "stretches", "at"))
    moved = [r.model_copy(update={"folder": place}) for place in "ab" for r in sweep(one)]
    keys = ("l0", "ce_degradation")
    made = {
        "three": answer(runs, Question.asked(*keys, "nmse"), 20),
        "folders": answer(moved, Question.asked(*keys, grouping="folder"), 20),
        "several": answer([*sweep(one), *sweep(two)], Question(), 20),
        "none": [],
    }
    documents = {
        name: frontier_document(
            answers, keys, None, lambda found: [result_document(r) for r in found.group.results],
            others=[run_document("bad", "runs/bad", None, None, None, status="failed", error="x")],
        ).to_json()
        for name, answers in made.items()
    }  # fmt: skip
    assert documents["three"]["runs"][-1]["status"] == "failed"
    assert len(documents["several"]["groups"]) == 2
    assert documents["folders"]["folders"]
    wrong: dict[str, object] = {"report": 3, "colour": 1, "x": None, "runs": [{}]}
    for document in (printed, *documents.values()):
        assert document["schema_version"] == render_documents.SCHEMA_VERSION
        assert _has(schema, document)
        for name, value in wrong.items():
            assert not _has(schema, document | {name: value}), name


def test_comparisons_have_the_published_schema(
    site: Site, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sweep(np.arange(32))
    damaged = [
        result(Sae(variant, threshold, decoder_scale=0.7), np.arange(32))
        for variant in ("prolu", "relu")
        for threshold in THRESHOLDS
    ]
    runs, later = _stored(tmp_path / "runs", before), _stored(tmp_path / "later", damaged)
    baseline.save_baseline(before, tmp_path / "baseline.json")
    schema = _schema(site, f"comparison-{comparison_documents.SCHEMA_VERSION}")
    for asked in ((runs, later), (later, "-b", tmp_path / "baseline.json")):
        document = run(capfd, "compare", *asked, "--json").json()
        assert document["schema_version"] == comparison_documents.SCHEMA_VERSION
        assert bool(document["folders"]) == (len(asked) == 2)
        assert document["verdict"] == "regression"
        assert _has(schema, document)
        wrong: dict[str, object] = {"verdict": "worse", "new_runs": 3, "runs": [{}], "colour": 1}
        for name, value in wrong.items():
            assert not _has(schema, document | {name: value}), name
