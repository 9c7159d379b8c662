"""The engine on a GPU: ``python benchmarks/gpu.py``; ``--tiny --device cpu`` runs the same small.

A GPT-2-small shape with random weights, autoencoders at blocks.8.hook_resid_pre. Printed for each
precision: tokens per second and autoencoder, the share of the time that the autoencoder's two dense
matrix products alone would take at the rate measured for them, and the peak memory; then the
same for one autoencoder of a very large dictionary. ``--saelens`` measures SAELens's evaluation in
float32 too, if sae-lens is installed.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from engine import whole
from tokenizers import Tokenizer, models

from prolu_eval.evaluation.engine import Engine
from prolu_eval.lm import LanguageModel
from prolu_eval.saes import Relu, SparseAutoencoder
from prolu_eval.tokens import TokenRows

HOOK = "blocks.8.hook_resid_pre"


def random_model(folder: Path, *, tiny: bool) -> None:
    """Write a GPT-2 of random weights."""
    config = transformers.GPT2Config()
    if tiny:
        config = transformers.GPT2Config(
            vocab_size=300, n_embd=32, n_layer=10, n_head=4, bos_token_id=0, eos_token_id=0
        )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    vocabulary = {"<|endoftext|>": 0, "a": 1}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="a")),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
    ).save_pretrained(folder)


def random_sae(d_in: int, d_sae: int, l0: float, x: torch.Tensor) -> SparseAutoencoder:
    """Unit decoder rows, tied, with a bias that leaves about ``l0`` features active."""
    sae = Relu(d_in, d_sae)
    rows = torch.nn.functional.normalize(torch.randn(d_sae, d_in, device=x.device), dim=1)
    sae.W_dec.data, sae.W_enc.data, sae.b_dec.data = rows, rows.T.contiguous(), x.mean(0)
    some = ((x[:64] - x.mean(0)) @ rows.T[:, :65_536]).flatten()[:8_000_000].float()
    sae.b_enc.data = torch.full((d_sae,), -float(some.quantile(1 - l0 / d_sae)), device=x.device)
    return sae.requires_grad_(False).eval()


def timed(device: torch.device, work: Callable[[], object], repeats: int = 5) -> float:
    """Median seconds of some work, the device's queue emptied before and after."""
    import time

    spent = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - start)
    return sorted(spent[1:])[repeats // 2]


def random_rows(model: LanguageModel, options: argparse.Namespace) -> TokenRows:
    """Random token ids, all of them counted."""
    length = 16 if options.tiny else 1024
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, model.vocab_size, (options.sequences, length), generator=generator)
    return TokenRows(ids, torch.ones_like(ids, dtype=torch.bool), "random")


def measure(folder: Path, options: argparse.Namespace, dtype: str, n_saes: int, d_sae: int) -> None:
    """One line of the table."""
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    kind = torch.float32 if dtype == "tf32" else getattr(torch, dtype)
    model = LanguageModel.load(str(folder), device=options.device, dtype=kind)
    device = model.device
    rows = random_rows(model, options)
    x = model.activations(rows.ids[:1], HOOK)[0].float()
    saes = {str(i): random_sae(model.d_model, d_sae, 64, x) for i in range(n_saes)}
    engine = Engine(model, HOOK, rows)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    spent = timed(device, lambda: whole(engine, saes), options.repeats) / n_saes
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
    sae, flat = saes["0"].to(device, kind), x.to(kind)
    n = rows.ids.numel() / len(flat)
    products = n * timed(device, lambda: (flat @ sae.W_enc) @ sae.W_dec, options.repeats)
    print(
        f"| {dtype} | {n_saes} | {d_sae:,} | {rows.ids.numel() / spent:,.0f} "
        f"| {products / spent:.2f} | {peak:.2f} | {engine.batch_size} |"
    )


def measure_saelens(folder: Path, options: argparse.Namespace, d_sae: int) -> None:
    """SAELens's line of the table, from one autoencoder: it evaluates one at a time."""
    from peers import saelens

    model = LanguageModel.load(str(folder), device=options.device)
    rows = random_rows(model, options)
    x = model.activations(rows.ids[:1], HOOK)[0].float()
    sae = random_sae(model.d_model, d_sae, 64, x)
    del model
    evaluate = saelens(str(folder), HOOK, rows, [sae], options.device)
    spent = timed(x.device, lambda: evaluate(0), options.repeats)
    print(f"| SAELens, float32 | 1 | {d_sae:,} | {rows.ids.numel() / spent:,.0f} | | | |")


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--saes", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--saelens", action="store_true", help="measure SAELens too")
    options = parser.parse_args()
    d_sae, largest = (64, 256) if options.tiny else (24_576, 1_048_576)
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device
    print(f"{name}, torch {torch.__version__}")
    print("| dtype | SAEs | d_sae | tokens/s and SAE | products' share | peak GiB | batch rows |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        random_model(Path(folder), tiny=options.tiny)
        for dtype in ("float32", "tf32", "bfloat16"):
            measure(Path(folder), options, dtype, options.saes, d_sae)
        measure(Path(folder), options, "bfloat16", 1, largest)
        if options.saelens:
            measure_saelens(Path(folder), options, d_sae)


if __name__ == "__main__":
    main()
