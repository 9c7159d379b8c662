"""The GitHub action and workflows: checked against GitHub's schemas, and executed."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from prolu_eval.checkpoints.native import save_run
from prolu_eval.runs import RunConfig
from prolu_eval.saes import Relu
from tests.conftest import ROOT

ACTION = ROOT / ".github" / "actions" / "prolu-eval" / "action.yml"
EXAMPLES = ROOT / ".github" / "actions" / "prolu-eval" / "examples"
CHECKED = {
    "vendor.github-actions": [ACTION],
    "vendor.github-workflows": [
        *(ROOT / ".github" / "workflows").glob("*.yml"), EXAMPLES / "workflow.yml",
    ],
}  # fmt: skip


@pytest.mark.parametrize("schema", CHECKED)
def test_githubs_schemas_accept_it(schema: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    checked = subprocess.run([*command, *CHECKED[schema]], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_workflows_give_the_action_inputs_that_it_has() -> None:
    action = yaml.safe_load(ACTION.read_text())
    used = 0
    for path in CHECKED["vendor.github-workflows"]:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            for step in job["steps"]:
                if "/prolu-eval" in step.get("uses", ""):
                    assert step["with"].keys() <= action["inputs"].keys()
                    used += 1
    assert used == 2


def test_the_readme_names_every_input() -> None:
    readme = ACTION.with_name("README.md").read_text()
    for name in yaml.safe_load(ACTION.read_text())["inputs"]:
        assert f"`{name}`" in readme


class Job:
    """Runs the action's own shell steps, as the runner would, with these inputs."""

    def __init__(self, folder: Path, **inputs: str) -> None:
        action = yaml.safe_load(ACTION.read_text())
        self.folder = folder
        self.inputs = {k: v.get("default", "") for k, v in action["inputs"].items()} | inputs
        self.steps = {step["name"]: step for step in action["runs"]["steps"]}

    def step(self, name: str) -> subprocess.CompletedProcess[str]:
        step = self.steps[name]
        files = {v: str(self.folder / v) for v in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT")}
        environment = {
            **os.environ, **files, "GITHUB_ACTIONS": "true", "HF_HUB_OFFLINE": "1",
            "GITHUB_WORKSPACE": str(self.folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **{key: self._evaluated(value) for key, value in step["env"].items()},
        }  # fmt: skip
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        return subprocess.run(
            shell, cwd=self.folder, env=environment, capture_output=True, text=True
        )

    def _evaluated(self, text: str) -> str:
        def replace(match: re.Match[str]) -> str:
            name = match[1]
            assert name.startswith("inputs."), name
            return str(self.inputs[name.removeprefix("inputs.")])

        return re.sub(r"\$\{\{ (.*?) \}\}", replace, text)


@pytest.fixture
def job(tmp_path: Path, tiny_model: Callable[[str], Path]) -> Job:
    ids = np.random.default_rng(0).integers(1, 96, (16, 32))
    np.save(tmp_path / "some ids.npy", ids)
    for name in ("a", "b"):
        sae = Relu(32, 40)
        torch.manual_seed(ord(name))
        torch.nn.init.normal_(sae.W_enc)
        torch.nn.init.normal_(sae.W_dec)
        about: dict[str, Any] = {"hook": "blocks.1.hook_resid_post", "context_length": 32}
        config = RunConfig(variant="", d_in=1, d_sae=1, model=str(tiny_model("llama")), **about)
        save_run(tmp_path / "my runs" / name, sae, config)
    return Job(tmp_path, runs="'my runs'", evaluate="--tokens 'some ids.npy' --device cpu")


def test_the_actions_steps_evaluate_and_compare(job: Job) -> None:
    folder = job.folder
    evaluated = job.step("Evaluate")
    assert evaluated.returncode == 0, evaluated.stderr
    saved = subprocess.run(
        [sys.executable, "-m", "prolu_eval", "baseline", "save", job.inputs["results"],
         "-o", "baseline.json"], cwd=folder, check=True)  # fmt: skip
    assert saved.returncode == 0
    passed = job.step("Compare")
    assert passed.returncode == 0, passed.stderr
    assert (folder / "GITHUB_OUTPUT").read_text() == "verdict=pass\n"
    report = folder / job.inputs["report"]
    assert {p.name for p in report.iterdir()} == {"comparison.html", "comparison.md", "junit.xml"}
    # One run damaged and one gone; results of both are still in the cached folder.
    config = RunConfig.model_validate_json((folder / "my runs/a/config.json").read_text())
    save_run(folder / "my runs" / "a", Relu(32, 40), config)
    for path in (folder / "my runs" / "b").iterdir():
        path.unlink()
    (folder / "my runs" / "b").rmdir()
    assert job.step("Evaluate").returncode == 0
    job.inputs["compare"] = "--tolerance 'nmse=±1%'"
    failed = job.step("Compare")
    assert failed.returncode == 1
    summary = (folder / "GITHUB_STEP_SUMMARY").read_text()
    assert "❌ regression | a | nmse" in summary
    assert "⚠️ incomparable | b |" in summary
    assert "::error file=baseline.json,line=" in failed.stderr


def test_the_action_stops_where_nothing_can_be_evaluated(job: Job) -> None:
    job.inputs["runs"] = "nowhere"
    stopped = job.step("Evaluate")
    assert stopped.returncode != 0
    assert "nowhere: does not exist" in stopped.stderr


def test_the_example_test_and_session_are_python() -> None:
    for name in ("noxfile.py", "test_quality.py"):
        compile((EXAMPLES / name).read_text(), name, "exec")
