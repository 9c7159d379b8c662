"""What a release needs of the project's files, and the forms and bounds that a stranger meets."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
GITHUB = ROOT / ".github"
FORMS = [path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
CHECKED = {
    "vendor.github-issue-forms": FORMS,
    "vendor.github-issue-config": [GITHUB / "ISSUE_TEMPLATE" / "config.yml"],
    "vendor.dependabot": [GITHUB / "dependabot.yml"],
    "vendor.citation-file-format": [ROOT / "CITATION.cff"],
}


@pytest.fixture(scope="module")
def release() -> ModuleType:
    """The script of the release's workflow."""
    spec = importlib.util.spec_from_file_location("release", GITHUB / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The files of a project that can be released as 0.2.0."""
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.2.0"\n')
    (tmp_path / "CITATION.cff").write_text("title: x\nversion: 0.2.0\ndate-released: 2026-12-01\n")
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changes\n\n## 0.2.0 (2026-12-01)\n\n- New.\n\n## 0.1.0 (2026-01-01)\n\n- First.\n"
    )
    return tmp_path


def test_a_release_that_agrees_has_its_section_as_notes(release: ModuleType, project: Path) -> None:
    notes = project / "notes.md"
    assert release.main("v0.2.0", str(notes), project) == 0
    assert notes.read_text() == "- New.\n"
    assert release.notes(project, "0.1.0") == "- First."


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("pyproject.toml", "0.2.0", "0.2.0.dev0"),
        ("CITATION.cff", "0.2.0", "0.1.0"),
        ("CITATION.cff", "date-released: 2026-12-01\n", ""),
        ("CHANGELOG.md", "2026-12-01", "unreleased"),
        ("CHANGELOG.md", "- New.", ""),
    ],
)
def test_a_release_that_a_file_disagrees_with_is_refused(
    file: str, old: str, new: str, release: ModuleType, project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    text = (project / file).read_text()
    assert old in text
    (project / file).write_text(text.replace(old, new, 1))
    assert release.main("v0.2.0", str(project / "notes.md"), project) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in said] == [file]
    assert not (project / "notes.md").exists()


def test_a_tag_of_another_version_or_kind_is_refused(release: ModuleType, project: Path) -> None:
    assert release.main("v0.3.0", str(project / "notes.md"), project) == 1
    assert release.main("0.2.0", str(project / "notes.md"), project) == 1


def test_the_project_states_one_version() -> None:
    version = PYPROJECT["project"]["version"]
    base = re.sub(r"\.dev\d+$", "", version)
    newest = re.findall(
        r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert newest[0] == base == citation["version"]
    assert citation["repository-code"] == PYPROJECT["project"]["urls"]["Repository"]


@pytest.mark.parametrize("schema", CHECKED)
def test_the_schemas_accept_it(schema: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    checked = subprocess.run([*command, *CHECKED[schema]], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_workflows_pin_the_actions_of_others() -> None:
    """A tag can be moved to other code; the hash of a commit cannot."""
    paths = [*(GITHUB / "workflows").glob("*.yml"), GITHUB / "actions/prolu-eval/action.yml"]
    used = [
        found
        for path in paths
        for found in re.findall(r"uses: (\S+)", path.read_text(encoding="utf-8"))
        if not found.startswith("./")
    ]
    assert len(used) > 10
    assert [name for name in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name)] == []
