"""The table of architectures, ``docs/architectures.md``: a section for each TransformerLens.

``python -m tests.architectures.document`` writes the section of the one that is installed.
"""

import os
import re
import tempfile
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

from tests.architectures.trying import USUAL, Tried, known, try_architecture
from tests.conftest import ROOT

DOCUMENT = ROOT / "docs" / "architectures.md"
_HEAD = """# Architectures

Every architecture that TransformerLens knows and transformers has as a causal language model (or as
a model with one in it), tried by `nox -s architectures`: a tiny random model of each is spliced at
every hook name that prolu-eval offers, with its own activation, with another and with zero, and
must give the logits of the Hugging Face model with one plain hook on the module meant, or the hook
is refused with the reason. The same trial, on a few tokens of the model at hand, precedes every
measurement, so a model that is built otherwise is refused rather than measured wrongly.

- **yes**: spliced, and resumed from the block that it lies in
- **whole**: spliced by whole passes, because the network cannot be entered at that block
- **no**: refused, for the reason below the table; **-**: no such hook
- a/b: in the first and the second block, where they differ
- **sum**: whether hook_resid_post is hook_resid_pre + hook_attn_out + hook_mlp_out; where it is
  not, the latter two are outputs of modules that the block scales, gates or normalises afterwards
"""
_COLUMNS = ("architecture", *(name.removeprefix("hook_") for name in USUAL), "sum", "all hooks")


def lens() -> str:
    """The installed TransformerLens, by its major and minor version."""
    return ".".join(version("transformer-lens").split(".")[:2])


def row(architecture: str, tried: Tried) -> str:
    """An architecture's line of the table."""
    if tried.refused is not None:
        cells = [architecture, f"refused: {tried.refused}"] + [""] * (len(_COLUMNS) - 2)
    else:
        n_spliced = sum(reason is None for reason in tried.hooks.values())
        adds_up = {True: "yes", False: "no", None: "-"}[tried.adds_up]
        usual = [_cell(tried, name) for name in USUAL]
        cells = [architecture, *usual, adds_up, f"{n_spliced} of {len(tried.hooks)}"]
    return f"| {' | '.join(cells)} |"


def reasons(architecture: str, tried: Tried) -> list[str]:
    """Why hooks of an architecture are refused, a line for each reason."""
    by_reason: dict[str, dict[str, None]] = {}
    for hook, reason in tried.hooks.items():
        if reason is not None:
            name = hook.removeprefix("blocks.").partition(".")[2]
            by_reason.setdefault(reason, {})[name] = None
    return [
        f"- {architecture}, {', '.join(f'`{name}`' for name in names)}: {reason}"
        for reason, names in by_reason.items()
    ]


def section(results: dict[str, Tried]) -> str:
    """The section of the installed TransformerLens, without its heading."""
    head = f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}"
    lines = [row(name, tried) for name, tried in results.items()]
    refused = [line for name, tried in results.items() for line in reasons(name, tried)]
    return "\n".join([head, *lines, "", "Refused hooks:", "", *refused]) + "\n"


def sections(text: str) -> dict[str, str]:
    """The sections of the document by version."""
    parts = re.split(r"^## TransformerLens (\S+)\n\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def tried_in_a_folder_of_its_own(architecture: str) -> Tried:
    """The result of trying an architecture."""
    with tempfile.TemporaryDirectory() as folder:
        return try_architecture(architecture, Path(folder))


def main() -> None:
    """Write the section of the installed TransformerLens."""
    names = list(known())
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1), get_context("spawn")) as pool:
        results = dict(zip(names, pool.map(tried_in_a_folder_of_its_own, names), strict=True))
    found = sections(DOCUMENT.read_text(encoding="utf-8")) if DOCUMENT.exists() else {}
    found[lens()] = section(results)
    parts = (
        f"## TransformerLens {name}\n\n{text.strip()}\n" for name, text in sorted(found.items())
    )
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text("\n".join([_HEAD, *parts]), encoding="utf-8")


def _cell(tried: Tried, name: str) -> str:
    states = []
    for block in ("0", "1"):
        hook = f"blocks.{block}.{name}"
        if hook not in tried.hooks:
            states.append("-")
        elif tried.hooks[hook] is not None:
            states.append("no")
        else:
            states.append("whole" if hook in tried.whole_passes else "yes")
    return "/".join(dict.fromkeys(states))


if __name__ == "__main__":
    main()
