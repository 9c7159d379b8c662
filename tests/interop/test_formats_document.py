"""``docs/formats.md`` gives the result for every architecture and loader of SAELens."""

from importlib.metadata import version

import pytest
from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_LOADERS

from tests.interop.formats_document import DOCUMENT, LOADERS, document


@pytest.mark.skipif(
    not version("sae-lens").startswith("6.54."), reason="the page is of SAELens 6.54"
)
def test_the_page_is_current() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document()


def test_every_loader_has_a_checkpoint() -> None:
    assert LOADERS.keys() == NAMED_PRETRAINED_SAE_LOADERS.keys()
