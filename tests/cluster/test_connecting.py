"""Which cluster a command connects to when none is named."""

import socket
from pathlib import Path

import pytest

from prolu_eval.cluster.on_ray import _of_this_machine

pytestmark = pytest.mark.cluster


def test_a_cluster_that_was_killed_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert _of_this_machine() == "local"
    remembered = tmp_path / "ray" / "ray_current_cluster"
    remembered.parent.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as running:
        remembered.write_text(f"127.0.0.1:{running.getsockname()[1]}")
        assert _of_this_machine() is None
    assert _of_this_machine() == "local"
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    assert _of_this_machine() is None
