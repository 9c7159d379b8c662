"""What a release needs of the project's files: one version in all of them, and the release's notes.

``python .github/release.py v0.2.0 notes.md`` fails unless pyproject.toml, CITATION.cff and
CHANGELOG.md agree that the tag's version is the one to be released, and writes the changelog's
section of that version to ``notes.md``.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def disagreements(root: Path, version: str) -> list[str]:
    """What in the files of a project does not belong to the release of a version, in sentences."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = project["version"]
    found = []
    if stated != version:
        found.append(f'pyproject.toml: has version {stated}; write "{version}".')
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    if f"\nversion: {version}\n" not in citation:
        found.append(f'CITATION.cff: is not of {version}; write "version: {version}".')
    if not re.search(r"^date-released: \d{4}-\d\d-\d\d$", citation, re.MULTILINE):
        found.append('CITATION.cff: has no day; write "date-released: YEAR-MONTH-DAY".')
    if not notes(root, version):
        found.append(
            f"CHANGELOG.md: has no changes under a heading of {version} with a day; "
            f'write "## {version} (YEAR-MONTH-DAY)".'
        )
    return found


def notes(root: Path, version: str) -> str:
    """The changelog's section of a version, without its heading; empty if there is none."""
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)\n(.*?)(?=^## |\Z)"
    section = re.search(heading, changelog, re.MULTILINE | re.DOTALL)
    return section[1].strip() if section else ""


def main(tag: str, out: str, root: Path = ROOT) -> int:
    """Check the files against a tag and write the notes; the exit code."""
    if not tag.startswith("v"):
        sys.stderr.write(f"{tag}: is no tag of a release; name it v and the version.\n")
        return 1
    version = tag.removeprefix("v")
    if found := disagreements(root, version):
        sys.stderr.write("\n".join(found) + "\n")
        return 1
    Path(out).write_text(notes(root, version) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
