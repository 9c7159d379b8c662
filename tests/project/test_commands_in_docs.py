"""Every command block of the README and of the documentation is run, and every command is one.

What a page has to do (CONTRIBUTING.md says it in short):

- A block ```` ```sh ```` is run by bash, which stops at the first command that fails. All blocks of
  a page run in the order of the page and in one folder, so that a page is one session. Blocks
  ```` ```python ```` take part in it: all those of a page share their names.
- The folder begins with what :func:`prepared` makes: ``model/`` (a Hugging Face model),
  ``text.txt``, ``heldout.txt`` and ``data/heldout.txt`` for it, ``sweep.toml``, and the twelve
  runs that it trained in ``runs/``; ``path/to/model`` and ``path/to/text.txt`` are the same.
  Everything else is made by the page's own commands, as a reader makes it (`cat > small.toml
  <<'END'`).
- ``prolu-eval`` and ``python`` are the test's own process, which is quick, and whose cache is its
  own. Of other programs there are pytest and a few plain ones
  (:data:`tests.helpers.shell.PROGRAMS`): nothing is installed or started, and nothing reaches the
  network.
- Trainings and evaluations are cut to a few tokens: what is tested is that commands and options are
  there and fit together, not what is found.
- A block that should end otherwise has ``<!-- exit code: 1 -->`` directly before it. The exit code
  2, wrong usage or input, is a failure even before ``|| echo``, unless it is announced so.
- A block that cannot be run here has ``<!-- not run: WHY -->`` directly before it. Its lines that
  begin with `prolu-eval` are still parsed: the command is there, and takes these options.
- Commands are in no other kind of block. In sentences and tables, code that begins with
  `prolu-eval` names a command and options that it has.
"""

import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from prolu_eval import training
from prolu_eval.cli import app
from prolu_eval.errors import ProluEvalError
from prolu_eval.evaluation import EvaluationOptions, preparation
from prolu_eval.training import SweepFile
from tests.conftest import ROOT
from tests.helpers.pages import PAGES, Block, blocks, inline_code
from tests.helpers.shell import Shell

SHELLS = ("sh", "bash")
_SWEEP = """[shared]
model = "{model}"
hook = "blocks.2.hook_resid_post"
dataset = "{text}"
n_tokens = 4096
context_length = 16
d_sae = 48
batch_size = 64
buffer_size = 512

[within]
learning_rates = [8e-3]
seeds = [0, 1]

[[sweep]]
variant = "relu"
coefficients = [0.25, 0.8, 2]

[[sweep]]
variant = "prolu"
options = {{ gradient = "ste" }}
coefficients = [0.06, 0.25, 0.8]
"""
# What Typer raises of a command line, BadParameter among it, wherever it takes it from.
_MISTAKE: type[Exception] = typer.BadParameter.__mro__[2]
COMMANDS = get_command(app)
_FEW = 1024  # tokens, in place of what is asked for


def _text(first: int) -> str:
    stories = (f"story {i}: once there was a {i % 7}. " * 4 for i in range(first, first + 60))
    return "<|endoftext|>".join(stories)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]) -> Path:
    """What a page's folder has at its beginning."""
    folder = tmp_path_factory.mktemp("prepared")
    shutil.copytree(tiny_model("llama"), folder / "model")
    config = folder / "model" / "config.json"
    config.write_text(config.read_text().replace('embeddings": 64', 'embeddings": 256'))
    (folder / "text.txt").write_text(_text(0))
    (folder / "heldout.txt").write_text(_text(60))
    for place, target in (
        ("path/to/model", "model"), ("path/to/text.txt", "text.txt"),
        ("data/heldout.txt", "heldout.txt"),
    ):  # fmt: skip
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).symlink_to(os.path.relpath(folder / target, (folder / place).parent))
    sweep = folder / "sweep.toml"
    sweep.write_text(_SWEEP.format(model=folder / "model", text=folder / "text.txt"))
    training.train_sweep(training.read_sweep_file(sweep), folder / "runs")
    return folder


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings and evaluations on a few tokens."""
    read, prepare = training.read_sweep_file, preparation.Preparation.__init__

    def read_shortened(*arguments: Any, **shared: Any) -> SweepFile:
        file = read(*arguments, **shared)
        few = {
            "n_tokens": min(file.shared.n_tokens, _FEW),
            "batch_size": min(file.shared.batch_size, 128),
            "d_sae": min(file.shared.d_sae or 96, 96),
            "expansion": None,
        }
        return file.model_copy(update={"shared": file.shared.model_copy(update=few)})

    def prepare_few(self: Any, options: EvaluationOptions, *places: Any) -> None:
        few = replace(options, n_tokens=min(options.n_tokens, _FEW))
        prepare(self, few, *places)

    monkeypatch.setattr(training, "read_sweep_file", read_shortened)
    monkeypatch.setattr(preparation.Preparation, "__init__", prepare_few)


@pytest.fixture
def shell(
    tmp_path: Path, prepared: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Shell]:  # fmt: skip
    """A shell in a copy of what is prepared."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    folder = tmp_path / "session"
    shutil.copytree(prepared, folder, symlinks=True)
    monkeypatch.chdir(folder)
    opened = Shell(folder, capfd)
    yield opened
    opened.close()


def _is_run(block: Block) -> bool:
    return block.language in (*SHELLS, "python") and "not run" not in block.remarks


WITH_COMMANDS = [page for page in PAGES if any(map(_is_run, blocks(page)))]
_NAMES = [str(page.relative_to(ROOT)) for page in WITH_COMMANDS]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=_NAMES)
def test_the_blocks_of_a_page_run(page: Path, shell: Shell, short: None) -> None:
    _run_page(page, shell)


def _run_page(page: Path, shell: Shell) -> None:
    names: dict[str, Any] = {"__name__": page.stem}
    for block in filter(_is_run, blocks(page)):
        if block.language == "python":
            exec(compile(block.text, block.place, "exec"), names)
            continue
        expected = int(block.remarks.get("exit code", 0))
        code, printed = shell.run(block.text)
        assert code == expected, f"{block.place}: exit code {code}\n{block.text}\n{printed}"
        if expected != 2:
            assert shell.wrong_input == [], f"{block.place}\n{block.text}\n{printed}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_are_not_run_could_be(page: Path) -> None:
    for block in blocks(page):
        if block.language in SHELLS:
            for words in commands_in(block.text):
                parse(words, block.place)
        elif block.language == "python":
            compile(block.text, block.place, "exec")
        else:
            hidden = re.findall(r"^\s*(?:\$ )?prolu-eval .*", block.text, re.MULTILINE)
            assert not hidden, f"{block.place}: make it a block of sh, outside of boxes and tabs"
        assert block.remarks.get("not run", "a reason"), f"{block.place}: say why it is not run"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_sentences_are_there_with_their_options(page: Path) -> None:
    for line, text in inline_code(page):
        if text.startswith("prolu-eval "):
            words = text.split()[1:]
            command, _ = _command(words, f"{page.name}:{line}")
            known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
            used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert used <= known | {"--help", "-h"}, f"{page.name}:{line}: {text}"


def commands_in(text: str) -> Iterator[list[str]]:
    """The words after each `prolu-eval` that begins a line, up to what the shell does with it."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        lexer = shlex.shlex(line.strip(), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer) if line.strip().startswith("prolu-eval ") else []
        end = next((i for i, w in enumerate(words) if re.fullmatch(r"[|&;<>()]+", w)), len(words))
        if words:
            yield words[1:end]


def _command(words: list[str], place: str) -> tuple[Any, list[str]]:
    """The command that words name, and the words after it."""
    command: Any = COMMANDS
    rest = list(words)
    while hasattr(command, "commands"):
        if rest[:1] == ["--version"] or not rest:
            break
        name = rest.pop(0).partition("|")[0].partition("\\|")[0]
        assert name in command.commands, f"{place}: there is no `prolu-eval {name}`"
        command = command.commands[name]
    return command, rest


def parse(words: list[str], place: str) -> None:
    """See that a command line can be parsed: its command, its options, the kinds of values."""
    command, rest = _command(words, place)
    try:
        command.make_context("prolu-eval", rest).close()
    except typer.Exit:
        pass
    except (ProluEvalError, _MISTAKE) as error:
        pytest.fail(f"{place}: {' '.join(words)}: {error}")


@pytest.mark.parametrize(
    "line",
    [
        "prolu-eval evalute runs/",
        "prolu-eval evaluate runs/ --token a",
        "prolu-eval evaluate runs/ --n-tokens many",
        "prolu-eval report",
    ],
)
def test_wrong_commands_are_noticed(line: str) -> None:
    (words,) = commands_in(f"# a comment\n{line} > out.txt\n")
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        parse(words, "here")


def test_a_page_is_one_session_and_a_failing_command_is_noticed(shell: Shell, short: None) -> None:
    counted = shell.run("name=runs; prolu-eval inspect $name 2> told | grep -c relu_l1_c2_lr")
    assert counted == (0, "2\n")
    written = "cat > a.py <<'END'\nimport sys\nprint(sys.argv[1:])\nEND\npython a.py 1"
    assert shell.run(written) == (0, "['1']\n")
    assert shell.run("prolu-eval inspect nowhere\necho afterwards")[0] == 2
    assert shell.run("prolu-eval inspect nowhere || echo afterwards")[0] == 0
    assert shell.wrong_input == ["inspect nowhere"]


_PAGE = """<!-- not run: a cloud -->
```sh
a
```

```sh
b
```

<!-- exit code: 1 -->

text

```sh
c
```

- item

  <!-- exit code: 1 -->
  ```sh
  d
  ```
"""


def test_a_remark_belongs_to_the_block_after_it_alone(tmp_path: Path) -> None:
    page = ROOT / "PAGE.md"
    found = [(block.text, block.remarks) for block in blocks(page, _PAGE)]
    assert found == [
        ("a\n", {"not run": "a cloud"}),
        ("b\n", {}),
        ("c\n", {}),
        ("d\n", {"exit code": "1"}),
    ]
