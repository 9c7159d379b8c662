"""The cost of an evaluation: ``python benchmarks/cost.py``.

Prints the time by number of autoencoders and by d_sae, and the peak memory of whole evaluations of
few and of many runs, each in a process of its own.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from engine import made_sae, seconds, whole
from peak import peak_mib

from prolu_eval.checkpoints.native import save_run
from prolu_eval.evaluation.engine import Engine
from prolu_eval.lm import LanguageModel
from prolu_eval.runs import RunConfig
from prolu_eval.tokens import load_tokens


def times(options: argparse.Namespace) -> None:
    """Print milliseconds per autoencoder, by number of autoencoders and by d_sae."""
    model = LanguageModel.load(options.model, device="cpu")
    rows = load_tokens(
        options.tokens, model, split="all", n_tokens=options.n_tokens, context_length=128
    )
    x = model.activations(rows.ids[:32], options.hook)[rows.counted[:32]]
    base = options.d_sae
    cases = [(n, base) for n in (1, 4, 16, 64)] + [(8, base * factor) for factor in (1, 2, 4, 8)]
    print("| SAEs | d_sae | ms per SAE | tokens per second and SAE |")
    print("|---|---|---|---|")
    for n, d_sae in cases:
        saes = {str(i): made_sae(x, d_sae, 32, i) for i in range(n)}
        engine = Engine(model, options.hook, rows)
        whole(engine, saes)
        spent = sorted(seconds(lambda: whole(engine, saes)) for _ in range(3))[1] / n  # noqa: B023
        print(f"| {n} | {d_sae} | {1000 * spent:.1f} | {rows.ids.numel() / spent:,.0f} |")


def memory(options: argparse.Namespace) -> None:
    """Print the peak memory for few and many runs and tokens, without examples and with them."""
    print("| runs | tokens | examples | peak memory, MiB |")
    print("|---|---|---|---|")
    model = LanguageModel.load(options.model, device="cpu")
    rows = load_tokens(options.tokens, model, split="all", n_tokens=4096, context_length=128)
    x = model.activations(rows.ids, options.hook)[rows.counted]
    cases = ((10, 8192, 0), (200, 8192, 0), (10, 65_536, 0), (10, 8192, 10), (10, 65_536, 10))
    for n_runs, n_tokens, n_examples in cases:
        with tempfile.TemporaryDirectory() as folder:
            for i in range(n_runs):
                config = RunConfig(
                    variant="", d_in=1, d_sae=1, model=options.model, hook=options.hook,
                    dataset=options.tokens, context_length=128,
                )  # fmt: skip
                save_run(Path(folder) / f"{i:03}", made_sae(x, options.d_sae, 32, i), config)
            command = [sys.executable, __file__, "--evaluate", folder, "--n-tokens", str(n_tokens),
                       "--tokens", options.tokens, "--examples", str(n_examples)]  # fmt: skip
            peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            print(f"| {n_runs} | {n_tokens:,} | {n_examples} | {int(peak):,} |")


def main() -> None:
    """Parse the options, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--tokens", default="embedded")
    parser.add_argument("--hook", default="blocks.2.hook_resid_post")
    parser.add_argument("--d-sae", type=int, default=1024)
    parser.add_argument("--n-tokens", type=int, default=4096)
    parser.add_argument("--examples", type=int, default=0)
    parser.add_argument("--part", choices=("times", "memory"), help="only one of the two tables")
    parser.add_argument("--evaluate", help="only evaluate a folder, and print the peak in MiB")
    options = parser.parse_args()
    if options.evaluate:
        from prolu_eval.evaluation import EvaluationOptions, evaluate

        chosen = EvaluationOptions(
            tokens=options.tokens, n_tokens=options.n_tokens, device="cpu",
            examples=options.examples,
        )  # fmt: skip
        evaluate(options.evaluate, chosen)
        print(peak_mib())
        return
    if options.part != "memory":
        times(options)
    if options.part != "times":
        memory(options)


if __name__ == "__main__":
    main()
