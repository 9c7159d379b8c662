"""How long commands take on a folder of thousands of runs with stored results.

python benchmarks/folders.py [--runs 10000] [--sequences 64] [--folder KEPT]

Writes tiny native runs on the embedded model, each with a stored result drawn around the frontier
of one of four variants, and runs inspect, evaluate, frontier and report on them, each in a process
of its own. As all results are stored, nothing is measured.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from report import made
from safetensors.numpy import save

from prolu_eval.checkpoints import discover
from prolu_eval.checkpoints.native import save_run
from prolu_eval.evaluation import EvaluationOptions, evaluate
from prolu_eval.evaluation.assembly import summary_of
from prolu_eval.evaluation.records import fingerprint_of
from prolu_eval.json_text import dumps
from prolu_eval.lm import LanguageModel
from prolu_eval.results import FOLDER, Setting, file_digests
from prolu_eval.runs import EMBEDDED_MODEL, Run, RunConfig
from prolu_eval.saes import VARIANTS

HOOK, CONTEXT, D_SAE = "blocks.3.hook_resid_post", 32, 8
VARIED = (("relu", "l1"), ("relu", "sqrt_l1"), ("prolu", "l1"), ("jumprelu", "l1"))
COMMANDS = ("inspect", "evaluate", "frontier", "report")


def write_runs(folder: Path, n: int) -> None:
    """Write tiny native runs whose weights are zero except for one bias."""
    d_in = LanguageModel.load(EMBEDDED_MODEL, device="cpu").width(HOOK)
    for i in range(n):
        variant, penalty = VARIED[i % len(VARIED)]
        config = RunConfig(
            variant=variant, d_in=d_in, d_sae=D_SAE, model=EMBEDDED_MODEL, dataset=EMBEDDED_MODEL,
            hook=HOOK, context_length=CONTEXT, penalty=penalty, learning_rate=1e-3, seed=i,
            coefficient=float(i // len(VARIED)),
        )  # fmt: skip
        sae = VARIANTS[variant](d_in, D_SAE)
        sae.b_dec.data[0] = i
        save_run(folder / f"run{i:05}", sae, config)


def write_results(folder: Path, n_sequences: int) -> None:
    """Write a result for each run, which an evaluation on ``n_sequences`` sequences reuses."""
    options = EvaluationOptions(n_tokens=n_sequences * CONTEXT, device="cpu")
    runs = [run for run in discover(folder) if isinstance(run, Run)]
    (first,) = evaluate(runs[0].path, options)
    assert first.result is not None, first.error
    setting: Setting = first.result.setting
    for i, run in enumerate(runs):
        checkpoint = file_digests(run.files, run.folder)
        drawn = made(i, D_SAE, setting.n_sequences).model_copy(
            update={"run": summary_of(run), "setting": setting, "checkpoint": checkpoint,
                    "fingerprint": fingerprint_of(run, checkpoint, setting)}
        )  # fmt: skip
        home = run.folder / FOLDER
        home.mkdir(exist_ok=True)
        path = home / f"{drawn.fingerprint}.json"
        path.with_suffix(".safetensors").write_bytes(save(dict(drawn.arrays)))
        path.write_text(dumps(drawn.model_dump(mode="json")))


def timed(words: list[str]) -> str:
    """The time, the CPU time and the peak memory of a command, in words."""
    program = (
        "import os, sys, time; from prolu_eval.cli import main; from peak import peak_mib\n"
        "start = time.perf_counter(); code = main(sys.argv[1:]); t = os.times()\n"
        "print(f'{time.perf_counter() - start:.1f} s, {t.user + t.system:.1f} s of CPU time, '\n"
        "      f'peak memory {peak_mib()} MiB', file=sys.stderr); sys.exit(code)"
    )
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, "-c", program, *words], check=True, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    return ran.stderr.splitlines()[-1]


def main() -> None:
    """Write the runs, measure the commands, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="a folder that keeps the runs for another call")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        if not any(folder.glob("run*")):
            write_runs(folder, chosen.runs)
            write_results(folder, chosen.sequences)
        tokens = ["--n-tokens", str(chosen.sequences * CONTEXT), "--device", "cpu", "--quiet"]
        for command in COMMANDS:
            more = tokens if command in ("evaluate", "frontier") else []
            print(f"{command} of {chosen.runs} runs: {timed([command, str(folder), *more])}")
        print(f"page {(folder / 'report.html').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
