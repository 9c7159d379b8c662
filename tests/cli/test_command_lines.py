"""Help in panels, completion by the shells' protocols, and wrong command lines told in one line."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from prolu_eval.activations import Gradient
from prolu_eval.cli import app, completion
from prolu_eval.cli.command import Command, Group, panel_of
from prolu_eval.training.objectives import OBJECTIVES
from tests.helpers.cli import run


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with the words that call it."""
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        yield name, command
        for inner, one in getattr(command, "commands", {}).items():
            yield f"{name} {inner}", one


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_every_option_stands_in_a_panel_and_says_what_it_does(name: str, command: Any) -> None:
    assert isinstance(command, Command | Group), name
    assert command.rich_help_panel or " " in name, name
    context = typer.Context(command)
    for parameter in command.get_params(context):
        assert panel_of(parameter, command), (name, parameter.name)
        assert getattr(parameter, "help", None), (name, parameter.name)
        panel = getattr(parameter, "rich_help_panel", None)
        assert panel or parameter.param_type_name == "argument" or parameter.name == "help"


def test_help_shows_panels_and_speaks_of_training_where_it_trains(
    capfd: pytest.CaptureFixture[str],
) -> None:
    told = run(capfd, "sweep", "--help").out
    for panel in ("What is trained:", "On which text:", "Where it runs:", "What is written:"):
        assert panel in told
    assert "Usage: prolu-eval sweep [OPTIONS] [FILE]" in told
    assert "What to train on" in told
    assert "slurm" not in told
    assert "list[" not in run(capfd, "evaluate", "--help").out
    assert "Evaluate and compare:\n" in run(capfd, "--help").out


def offered(
    shell: str, words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> list[str]:
    """What a shell is offered for the last word of a command line, by Typer's protocol."""
    line = f"prolu-eval {words}"
    monkeypatch.setenv("_PROLU_EVAL_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
    ran = run(capfd)
    assert ran.code == 0, ran.err
    if shell == "bash":
        return ran.out.split()
    return re.findall(r'^(?:_arguments \'\*: :\(\()?"([^"]+)"', ran.out, re.MULTILINE)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(
    ("words", "among", "not_among"),
    [
        ("ev", {"evaluate"}, {"frontier"}),
        ("baseline ", {"save", "show", "update"}, {"evaluate"}),
        ("frontier demo -x l", {"l0", "l1"}, {"kl"}),
        ("frontier demo -y ce_d", {"ce_degradation"}, {"l0"}),
        ("report demo -z k", {"kl"}, set()),
        ("evaluate demo --target-se ce_d", {"ce_degradation="}, {"l0="}),
        ("compare demo --tolerance l0=+2%,ce_d", {"l0=+2%,ce_degradation="}, set()),
        ("compare demo --frontier l0,ce_d", {"l0,ce_degradation"}, set()),
        ("frontier demo --at l", {"l0="}, set()),
        ("sweep --variant prolu/st", {"prolu/ste"}, {"relu"}),
        ("sweep --variant relu,top", {"relu,topk"}, set()),
        ("sweep --model synthetic:h", {"synthetic:hierarchy"}, set()),
        ("sweep --targ", {"--target-l0"}, {"--tokens"}),
        ("convert a b --to s", {"saelens"}, {"native"}),
        ("publish a --to ", {"card", "saebench"}, set()),
        ("report demo --format p", {"pdf", "png"}, {"svg"}),
        ("evaluate demo --device c", {"cpu", "cuda"}, {"mps"}),
        ("evaluate demo --dtype b", {"bfloat16"}, {"float32"}),
        ("evaluate demo --measure probes,", {"probes,behaviour"}, {"probes,probes"}),
        ("synthetic --preset c", {"correlated"}, {"hierarchy"}),
    ],
)
def test_shells_complete_names_of_every_kind(
    shell: str,
    words: str,
    among: set[str],
    not_among: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    found = set(offered(shell, words, monkeypatch, capfd))
    if shell == "zsh":
        found = {name.replace(":", "").replace("\\", "") for name in found}
        among = {name.replace(":", "") for name in among}
    assert among <= found
    assert not not_among & found


def test_names_of_runs_and_files_are_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("relu_1", "relu_2", "topk_1"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert offered("bash", "compare runs --only relu", monkeypatch, capfd) == ["relu_1", "relu_2"]
    assert offered("bash", "evaluate runs --tokens ru", monkeypatch, capfd) == ["runs/"]
    assert offered("bash", "evaluate runs --model e", monkeypatch, capfd) == ["embedded"]
    # Where nothing is offered the shell offers files by itself.
    assert offered("bash", "evaluate ru", monkeypatch, capfd) == []


def test_what_is_completed_is_what_there_is() -> None:
    assert tuple(OBJECTIVES) == completion.TRAINED_VARIANTS
    assert {g for of in completion.GRADIENTS.values() for g in of} == set(get_args(Gradient))


def test_completion_is_quick_and_loads_no_torch() -> None:
    code = (
        "import sys\nfrom prolu_eval.cli import main\ncode = main()\n"
        "assert not {'torch', 'numpy', 'pandas'} & sys.modules.keys()\nsys.exit(code)"
    )
    line = {"COMP_WORDS": "prolu-eval frontier demo -y ce_d", "COMP_CWORD": "4"}
    env = os.environ | line | {"_PROLU_EVAL_COMPLETE": "complete_bash"}
    before = os.times().children_user
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert (ran.stdout, ran.returncode) == ("ce_degradation\n", 0), ran.stderr
    assert os.times().children_user - before < 2  # seconds of a processor; 0.3 on one at rest


def test_completion_can_be_installed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    told = run(capfd, "--help").out
    assert "--install-completion" in told
    monkeypatch.setenv("_PROLU_EVAL_COMPLETE", "source_bash")
    script = run(capfd).out
    ran = subprocess.run(
        ["bash", "-c", f"{script}\ncomplete -p prolu-eval"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "_prolu_eval_completion prolu-eval" in ran.stdout


WRONG = [
    ("evalute demo", "evalute: is no command of `prolu-eval`; write evaluate, or"),
    ("show b.json", "write `prolu-eval baseline show`, or see"),
    ("baseline sav x -o b", "sav: is no command of `prolu-eval baseline`; write save, or"),
    ("--verison", "--verison: is no option of `prolu-eval`; write --version, or"),
    ("--n-tokens 5 evaluate x", "write it after the command"),
    ("evaluate x --ntokens 5", "is no option of `prolu-eval evaluate`; write --n-tokens"),
    ("evaluate x --threshold 1", "is no option of `prolu-eval evaluate`, but of `stability`"),
    ("evaluate x --n-tokens 1,000", "'1,000' cannot be read as a whole number; write 1000"),
    ("evaluate x --n-tokens=1e6", "write 1000000."),
    ("evaluate x --n-tokens ten", "'ten' is no whole number"),
    ("evaluate x --n-tokens 0", "--n-tokens: 0 is out of range; write at least 1"),
    ("evaluate x --n-tokens", "--n-tokens: is given no value"),
    ("evaluate x --dtype flot16", "'flot16' is no choice; write float16 or"),
    ("evaluate x --device gpu", "'gpu' is no device; write cpu, cuda"),
    ("stability x --threshold 2", "write at least 0 and at most 1"),
    ("frontier x --at l0:3", "'l0:3' is no METRIC=VALUE"),
    ("compare a b --tolerance L00=1%", "'L00' is not a metric; write l0, or"),
    ("convert a b", "--to: is missing; write `prolu-eval convert ... --to FORMAT`"),
    ("convert a", "DESTINATION: is missing"),
    ("convert a b --to saelnes", "write saelens, or"),
    ("convert a b c --to native", "c: is more than `prolu-eval convert` takes"),
    ("inspect", "RUNS: is missing"),
    ("publish a --to crad", "write card, or"),
    ("synthetic --preset heirarchy", "write hierarchy, or"),
    ("report x --metric l0", "is no option of `prolu-eval report`"),
    ("sweep .", "is a folder; give a TOML sweep file"),
    ("sweep no.toml", "as `prolu-eval sweep --example` prints one"),
    ("sweep --seeds 0.5", "'0.5' is no whole number"),
    ("sweep --seeds 0,", "--seeds: ends with a comma"),
    ("sweep --target-l0 0", "--target-l0: 0 is 0 or less"),
    ("sweep --coefficients 1,1", "names 1 twice"),
    ("sweep --variant rleu", "'rleu' is no variant that is trained; write relu or"),
    ("sweep --variant relu+sqrtl1", "write sqrt_l1, or"),
    ("sweep --variant prolu/stee", "'stee' is no gradient of prolu; write ste"),
    ("sweep --variant topk/ste", "topk takes no gradient; write topk"),
    ("sweep --variant topk", "give --k or --target-l0"),
    ("sweep --k 8", "--k: is of no use: no variant here takes it"),
    ("sweep --d-sae 8 --expansion 2", "--expansion: says what --d-sae says too"),
    ("sweep --model mine", "--tokens: is missing"),
    ("sweep --device gpu --dry-run", "is no device"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "told"), WRONG)
def test_a_wrong_command_line_is_told_in_one_line_with_what_to_do(
    line: str, told: str, capfd: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    ran = run(capfd, *line.split())
    assert ran.code == 2
    assert told in ran.err
    assert ran.err.count("\n") == 1
    assert not ran.out


def test_a_folder_in_the_place_of_a_command_is_told_one(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert f"as in `prolu-eval frontier {tmp_path}`" in run(capfd, tmp_path).err
    (tmp_path / "file").write_text("")
    assert "is a file; name a folder" in run(capfd, "sweep", "--out", tmp_path / "file").err
