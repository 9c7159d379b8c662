"""Where the user's cache folder is."""

import sys
from pathlib import Path

import pytest

from prolu_eval.cache import cache_folder


def test_the_variable_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROLU_EVAL_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")


@pytest.mark.skipif(sys.platform != "linux", reason="each platform has its own")
def test_else_it_is_where_the_platform_keeps_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PROLU_EVAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "prolu-eval"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "prolu-eval"
