"""The pictures of data in the documentation are what their script draws from stored results."""

import importlib.util
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.conftest import ROOT

PICTURES = ROOT / "docs" / "pictures"
SHOWN = sorted(path.name for path in PICTURES.glob("*.svg"))


@pytest.mark.parametrize("name", SHOWN)
def test_a_picture_reads_on_light_and_dark_pages(name: str) -> None:
    text = (PICTURES / name).read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.find("{http://www.w3.org/2000/svg}title") is not None
    assert "prefers-color-scheme: dark" in text
    assert len(text) < 20_000


@pytest.mark.slow
def test_pictures_are_what_their_script_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("draw", PICTURES / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    monkeypatch.setattr(draw, "HERE", tmp_path)
    for function in (draw.splice, draw.frontier, draw.savings, draw.intervals):
        function()
    assert sorted(path.name for path in tmp_path.iterdir()) == SHOWN
    for name in SHOWN:
        assert (tmp_path / name).read_text() == (PICTURES / name).read_text(encoding="utf-8")
