"""The cost of the engine, compared with the work that it cannot avoid: ``benchmarks/engine.py``.

Everything is measured in one process, with the parts alternating, and reported as medians and
ratios:

- engine: :class:`prolu_eval.evaluation.engine.Engine` on many autoencoders, per autoencoder;
- floor: only the two dense matrix products of an autoencoder and the resumed model pass;
- plain: what evaluators usually do per autoencoder: full clean, spliced and zero-ablated passes of
  the same model, and dense statistics of the codes.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from prolu_eval.evaluation.engine import Engine
from prolu_eval.lm import LanguageModel
from prolu_eval.saes import Relu, SparseAutoencoder
from prolu_eval.tokens import TokenRows, load_tokens


def made_sae(x: Tensor, d_sae: int, l0: float, seed: int) -> SparseAutoencoder:
    """A random autoencoder whose biases are set so that about ``l0`` features are active."""
    generator = torch.Generator().manual_seed(seed)
    sae = Relu(x.shape[1], d_sae)
    rows = torch.nn.functional.normalize(torch.randn(sae.W_dec.shape, generator=generator), dim=1)
    sae.W_dec.data, sae.W_enc.data, sae.b_dec.data = rows, rows.T.contiguous(), x.mean(0)
    m = sae.pre_activation(x[:2048])
    sae.b_enc.data.fill_(-float(m.flatten().kthvalue(int(m.numel() * (1 - l0 / d_sae))).values))
    return sae.requires_grad_(False)


def plain(model: LanguageModel, hook: str, rows: TokenRows, sae: SparseAutoencoder) -> None:
    """Evaluate one autoencoder in the usual way on all rows."""
    for ids, counted in zip(rows.ids.split(32), rows.counted.split(32), strict=True):
        clean = model.clean(ids, hook)
        x = clean.activation[counted]
        codes = sae.encode(x)
        x_hat = sae.decode(codes)
        (codes != 0).sum(1).double().sum(), codes.abs().sum(1).double().sum()
        (codes != 0).sum(0), (x - x_hat).square().sum(1).double().sum()
        spliced = clean.activation.clone()
        spliced[counted] = x_hat
        zeroed = clean.activation * ~counted[..., None]
        for hidden in (
            clean.hidden,
            model.splice(ids, hook, spliced),
            model.splice(ids, hook, zeroed),
        ):
            logits = model.logits(hidden)[:, :-1].flatten(0, 1)
            torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")


def floor(model: LanguageModel, hook: str, rows: TokenRows, sae: SparseAutoencoder) -> float:
    """The seconds of the matrix products and the resumed pass of one autoencoder on all rows."""
    seconds = 0.0
    for ids in rows.ids.split(32):
        clean = model.clean(ids, hook)
        x = clean.activation.flatten(0, 1)
        start = time.perf_counter()
        x_hat = (x @ sae.W_enc) @ sae.W_dec
        model.logits(model.resume(ids, hook, clean, x_hat.view_as(clean.activation)))
        seconds += time.perf_counter() - start
    return seconds


def whole(engine: Engine, saes: Mapping[str, SparseAutoencoder]) -> None:
    """Measure everything in an evaluation: the mean activation, ablations and autoencoders."""
    total, count = engine.sum_of_activations()
    engine.reference(total / count)
    engine.measure_saes(saes)


def seconds(function: Callable[[], object]) -> float:
    """The seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@torch.inference_mode()
def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--tokens", default="embedded")
    parser.add_argument("--hook", default="blocks.3.hook_resid_post")
    parser.add_argument("--d-sae", type=int, default=1024)
    parser.add_argument("--l0", type=float, default=32)
    parser.add_argument("--saes", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    name = str(Path(options.model).resolve()) if Path(options.model).exists() else options.model
    model = LanguageModel.load(name, device="cpu")
    rows = load_tokens(
        options.tokens, model, split="all", n_tokens=128 * options.sequences, context_length=128
    )
    x = model.activations(rows.ids, options.hook)[rows.counted]
    saes = {str(i): made_sae(x, options.d_sae, options.l0, i) for i in range(max(options.saes))}
    times: dict[str, list[float]] = {}
    for _ in range(options.repeats + 1):
        for n in options.saes:
            engine = Engine(model, options.hook, rows, batch_size=32)
            chosen = dict(list(saes.items())[:n])
            spent = seconds(lambda: whole(engine, chosen))  # noqa: B023 - called at once
            times.setdefault(f"engine, {n} SAEs", []).append(spent / n)
        times.setdefault("plain", []).append(
            seconds(lambda: plain(model, options.hook, rows, saes["0"]))
        )
        times.setdefault("floor", []).append(floor(model, options.hook, rows, saes["0"]))
    medians = {key: sorted(values[1:])[options.repeats // 2] for key, values in times.items()}
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}")
    print(f"{options.model}, {options.hook}, d_sae {options.d_sae}, {rows.ids.numel()} tokens")
    print("| what | tokens per second and SAE | of the floor's time | faster than plain |")
    print("|---|---|---|---|")
    for key, value in medians.items():
        rate = rows.ids.numel() / value
        print(f"| {key} | {rate:,.0f} | {value / medians['floor']:.2f} "
              f"| {medians['plain'] / value:.1f} |")  # fmt: skip


if __name__ == "__main__":
    main()
