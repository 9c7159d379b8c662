"""The files that are published: what is in them, and that the wheel works by itself.

``PROLU_EVAL_DIST`` names a folder with a wheel and an sdist (`nox -s package` does so); without it
both are built here.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, TOOLS = PYPROJECT["project"], PYPROJECT["tool"]
# Runs of the embedded model that train in a second each.
SWEEP = """
[shared]
model = "embedded"
hook = "blocks.3.hook_resid_post"
dataset = "embedded"
n_tokens = 16_384
d_sae = 256
batch_size = 128
buffer_size = 8_192

[[sweep]]
variant = "relu"
penalty = "l1"
coefficients = [0.3, 1]

[[sweep]]
variant = "prolu"
options = { gradient = "ste" }
penalty = "l1"
coefficients = [0.3, 1]
"""


def built(out: Path, *which: str) -> None:
    """Build into a folder, by the build tools of this environment."""
    command = [sys.executable, "-m", "build", "--no-isolation", *which, "--outdir", str(out)]
    ran = subprocess.run([*command, str(ROOT)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from the sdist."""
    if given := os.environ.get("PROLU_EVAL_DIST"):
        return Path(given)
    out = tmp_path_factory.mktemp("dist")
    built(out)
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    (found,) = dist.glob("*.tar.gz")
    return found


def contents(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel, by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_is_small_and_holds_the_package_alone(wheel: Path) -> None:
    assert wheel.stat().st_size < 8_000_000
    names = set(contents(wheel))
    about = f"prolu_eval-{PROJECT['version']}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"prolu_eval", about}
    assert {
        "prolu_eval/py.typed",
        "prolu_eval/embedded/model/model.safetensors",
        "prolu_eval/embedded/model/README.md",
        "prolu_eval/render/templates/page.html.j2",
        f"{about}/licenses/LICENSE",
        f"{about}/licenses/prolu_eval/render/vendored/plotly-basic.LICENSE",
    } <= names
    assert (
        sorted(name for name in names if re.search(r"\btests?\b|train\.py|__pycache__", name)) == []
    )
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "prolu_eval").rglob("*.py")}
    assert ours - names == {"prolu_eval/embedded/train.py"}


def test_the_sdist_builds_the_wheel_that_the_repository_builds(
    wheel: Path, sdist: Path, tmp_path: Path
) -> None:
    built(tmp_path, "--wheel")
    (direct,) = tmp_path.glob("*.whl")
    assert direct.name == wheel.name
    assert contents(direct) == contents(wheel)
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"} <= names
    assert sdist.stat().st_size < 8_000_000


def test_what_the_package_index_shows_links_to_where_it_leads(wheel: Path) -> None:
    name = f"prolu_eval-{PROJECT['version']}.dist-info/METADATA"
    metadata, _, page = contents(wheel)[name].decode().partition("\n\n")
    urls = dict(re.findall(r"^Project-URL: (\w+), (\S+)$", metadata, re.MULTILINE))
    assert urls.keys() == {"Homepage", "Documentation", "Repository", "Issues", "Changelog"}
    links = re.findall(r'(?:\]\(|(?:src|srcset|href)=")([^)\s"]+)', page)
    assert links
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    named = [
        re.sub(r".*/(?:blob/)?main/([^#]*).*", r"\1", link) for link in links if "/main/" in link
    ]
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment with the wheel and, of this environment, other packages alone.

    A path file that names a folder adds its packages, and not what path files in that folder name:
    a tree that is installed as editable here is not importable there.
    """
    folder = tmp_path_factory.mktemp("fresh") / "environment"
    venv.create(folder)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*command, "--no-deps", "--no-index", str(wheel)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


@pytest.fixture
def run_alone(fresh: Path, tmp_path: Path) -> "Alone":
    return Alone(fresh, tmp_path)


class Alone:
    """Runs programs of the fresh environment, without a network and away from the source tree."""

    def __init__(self, environment: Path, folder: Path) -> None:
        self.bin = environment / "bin"
        self.folder = folder
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        self.variables = {
            **kept, "HOME": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
            "PROLU_EVAL_CACHE": str(folder / "cache"),
        }  # fmt: skip

    def __call__(self, program: str, *arguments: str) -> str:
        command = [*_without_network(), str(self.bin / program), *arguments]
        ran = subprocess.run(
            command, cwd=self.folder, env=self.variables, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout


def _without_network() -> list[str]:
    """What runs a command without a network, where the system allows it."""
    command = ["unshare", "--map-root-user", "--net"]
    possible = shutil.which("unshare") and subprocess.run([*command, "true"]).returncode == 0
    return command if possible else []


def test_the_wheel_alone_trains_evaluates_and_reports_offline(run_alone: Alone) -> None:
    """What `prolu-eval demo` does, of four runs that train for a second each."""
    where = run_alone("python", "-c", "import prolu_eval; print(prolu_eval.__file__)")
    assert Path(where.strip()).is_relative_to(run_alone.bin.parent)
    assert run_alone("prolu-eval", "--version") == f"prolu-eval {PROJECT['version']}\n"
    (run_alone.folder / "sweep.toml").write_text(SWEEP)
    run_alone("prolu-eval", "sweep", "sweep.toml", "--out", "runs", "--quiet")
    options = ["--n-tokens", "4096", "--report", "report.html", "--quiet"]
    said = run_alone("prolu-eval", "frontier", "runs", *options)
    assert "prolu/ste+l1" in said
    page = (run_alone.folder / "report.html").read_text(encoding="utf-8")
    assert f"prolu-eval {PROJECT['version']}" in page


@pytest.mark.slow
def test_the_types_of_the_wheel_are_visible(run_alone: Alone) -> None:
    """A user's program passes mypy, strictly, and one that misuses the interface does not.

    Types of other packages are left out, as in this project's own checks, and so are torch's.
    """
    others = ["torch.*", *TOOLS["mypy"]["overrides"][0]["module"]]
    settings = f"[mypy]\nstrict = True\n[mypy-{','.join(others)}]\nfollow_imports = skip\n"
    (run_alone.folder / "mypy.ini").write_text(settings + "ignore_missing_imports = True\n")
    program = (ROOT / "tests" / "examples" / "typed_program.py").read_text(encoding="utf-8")
    (run_alone.folder / "program.py").write_text(program)
    (run_alone.folder / "wrong.py").write_text(
        "import prolu_eval\n\nprolu_eval.frontier('runs').page\n"
    )
    command = [sys.executable, "-m", "mypy", "--python-executable", str(run_alone.bin / "python")]
    ran = subprocess.run(
        [*command, "program.py", "wrong.py"], cwd=run_alone.folder, env=run_alone.variables,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.stdout.splitlines() == [
        'wrong.py:3: error: "FrontierAnswer" has no attribute "page"  [attr-defined]',
        "Found 1 error in 1 file (checked 2 source files)",
    ]
