"""Each architecture is spliced as plain hooks are, or refused, as docs/architectures.md says."""

import pytest

from tests.architectures.document import (
    DOCUMENT,
    lens,
    reasons,
    row,
    sections,
    tried_in_a_folder_of_its_own,
)
from tests.architectures.trying import known


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """The document's lines about the installed TransformerLens."""
    return sections(DOCUMENT.read_text(encoding="utf-8"))[lens()].splitlines()


def test_the_document_has_every_architecture(lines: list[str]) -> None:
    rows = [line.split(" ")[1] for line in lines if line.startswith("| ")][1:]
    assert rows == list(known())


@pytest.mark.parametrize("architecture", known())
def test_every_hook_is_spliced_or_refused(architecture: str, lines: list[str]) -> None:
    tried = tried_in_a_folder_of_its_own(architecture)
    assert not tried.wrong
    assert tried.hooks or tried.refused
    assert row(architecture, tried) in lines
    said = [line for line in lines if line.startswith(f"- {architecture},")]
    assert said == reasons(architecture, tried)
