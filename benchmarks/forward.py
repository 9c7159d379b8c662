"""The cost of each variant's forward pass, compared with its matrix products.

``python benchmarks/forward.py`` measures autoencoders that share their weights, and whose biases or
thresholds let about ``--l0`` features be active. With the parts alternating in one process, it
prints medians of the two dense matrix products, of the activation function alone, and of the
engine's pass over the codes, which encodes, decodes and computes all statistics.
"""

import argparse
import os
import platform
from typing import Any

import torch
from engine import made_sae, seconds
from torch import Tensor

from prolu_eval.evaluation.autoencoding import Activations, Autoencoding, Sizes
from prolu_eval.evaluation.features import FOLDS
from prolu_eval.saes import VARIANTS, SparseAutoencoder

ROW = 128


def variants(l0: int) -> dict[str, dict[str, Any]]:
    """The variants by name, with the options that affect the cost."""
    return {
        "relu": {}, "prolu": {}, "prolu_relu_hybrid": {}, "trec": {}, "jumprelu": {}, "gated": {},
        "topk": {"k": l0}, "batchtopk": {"k": l0},
    }  # fmt: skip


def made(variant: str, options: dict[str, Any], base: SparseAutoencoder) -> SparseAutoencoder:
    """An autoencoder of a variant whose features fire about where those of the ReLU one fire."""
    cls = VARIANTS[variant]
    threshold = -float(base.b_enc[0])
    if variant == "trec":
        options = {"theta": threshold}
    sae = cls(base.d_in, base.d_sae, cls.Options.model_validate(options))
    shared = {"W_enc": base.W_enc, "W_dec": base.W_dec, "b_dec": base.b_dec}
    own = {
        "b_enc": 0.0 if {"threshold", "k"} & {*sae.state_dict(), *options} else -threshold,
        "b_gate": -threshold, "b_mag": -threshold, "r_mag": 0.0, "threshold": threshold,
    }  # fmt: skip
    for name, tensor in sae.named_parameters():
        tensor.data.copy_(shared.get(name, torch.tensor(own.get(name, 0.0))))
    return sae.eval().requires_grad_(False)


def products(x: Tensor, sae: SparseAutoencoder, size: int) -> None:
    """Compute the two dense matrix products of an autoencoder, ``size`` tokens at a time."""
    for part in x.split(size):
        (part @ sae.W_enc) @ sae.W_dec


@torch.inference_mode()
def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d-in", type=int, default=64)
    parser.add_argument("--d-sae", type=int, default=1024)
    parser.add_argument("--l0", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    device = torch.device(options.device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(options.tokens, options.d_in, generator=generator)
    base = made_sae(x, options.d_sae, options.l0, 0).to(device)
    x = x.to(device)
    starts = torch.arange(0, len(x) + 1, ROW, device=device)
    given = Activations(x, starts, torch.arange(len(x), device=device) // ROW % FOLDS)
    passes = {
        name: Autoencoding(made(name, chosen, base), len(starts) - 1, device)
        for name, chosen in variants(options.l0).items()
    }
    size = max(1, Sizes.of(device).codes // options.d_sae)
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.repeats):
        floor = seconds(lambda: _synchronised(device, lambda: products(x, base, size)))
        times.setdefault(("products", ""), []).append(floor)
        for name, running in passes.items():
            m = [running.sae.pre_activation(part) for part in x.split(size)]
            for what, work in {
                "activate": lambda: [running.sae.activate(part) for part in m],  # noqa: B023
                "pass": lambda: running.reconstruct(given, 0),  # noqa: B023
            }.items():
                spent = seconds(lambda: _synchronised(device, work))  # noqa: B023
                times.setdefault((name, what), []).append(spent)
    report(options, {key: sorted(spent)[len(spent) // 2] for key, spent in times.items()})


def _synchronised(device: torch.device, work: Any) -> None:
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(options: argparse.Namespace, medians: dict[tuple[str, str], float]) -> None:
    """Print the table of medians."""
    floor = medians["products", ""]
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}")
    print(f"d_in {options.d_in}, d_sae {options.d_sae}, L0 {options.l0}, {options.tokens} tokens")
    print(f"two matrix products: {1e3 * floor:.1f} ms")
    print("| variant | activation, ms | whole pass, ms | of the products' time |")
    print("|---|---|---|---|")
    for name in variants(options.l0):
        whole = medians[name, "pass"]
        print(
            f"| {name} | {1e3 * medians[name, 'activate']:.1f} | {1e3 * whole:.1f} "
            f"| {whole / floor:.1f} |"
        )


if __name__ == "__main__":
    main()
