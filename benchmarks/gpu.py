"""The engine on a GPU: ``python benchmarks/gpu.py``; ``--tiny --device cpu`` runs a small version.

The model has the shape of GPT-2 small and random weights; the autoencoders are at
blocks.8.hook_resid_pre. For each precision the table has the tokens per second and autoencoder; the
share of that time that the necessary work alone would take; the peak memory; and how often the host
waits for the device per autoencoder. The necessary work is the autoencoder's two dense matrix
products, those of the blocks after the hook point with their attention, and the unembedding, at the
rates measured for each on this device in this precision. Another line is for one autoencoder with a
very large dictionary. ``--check`` first compares the measurements with those of the CPU
(``gpu_check.py``), ``--profile`` lists the kernels that take the time, and ``--saelens`` also
measures SAELens's evaluation, in float32 and with its autocast, if sae-lens is installed. ``--out``
names a folder for the tables.
"""

import argparse
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers
from engine import whole
from gpu_check import check
from tokenizers import Tokenizer, models
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from prolu_eval.evaluation.engine import Engine
from prolu_eval.lm import LanguageModel
from prolu_eval.saes import Relu, SparseAutoencoder
from prolu_eval.tokens import TokenRows

HOOK, BLOCK = "blocks.8.hook_resid_pre", 8
PRECISIONS = ("float32", "tf32", "bfloat16")
HEADING = (
    "| dtype | SAEs | d_sae | tokens/s and SAE | ms per SAE | necessary ms | share "
    "| peak GiB | waits per SAE | batch rows |\n|---|---|---|---|---|---|---|---|---|---|"
)


def random_model(folder: Path, *, tiny: bool) -> None:
    """Write a GPT-2 with random weights."""
    config = transformers.GPT2Config()
    if tiny:
        config = transformers.GPT2Config(
            vocab_size=300, n_embd=32, n_layer=10, n_head=4, bos_token_id=0, eos_token_id=0
        )
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_config(config)
    if tiny:  # with larger weights, so that ablations have an effect
        for parameter in network.parameters():
            parameter.data *= 6 if parameter.ndim == 2 else 1
    network.save_pretrained(folder)
    vocabulary = {"<|endoftext|>": 0, "a": 1}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="a")),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
    ).save_pretrained(folder)


def random_sae(d_in: int, d_sae: int, l0: float, x: Tensor) -> SparseAutoencoder:
    """An autoencoder with tied weights, unit decoder rows and about ``l0`` active features."""
    sae = Relu(d_in, d_sae)
    rows = torch.nn.functional.normalize(torch.randn(d_sae, d_in, device=x.device), dim=1)
    sae.W_dec.data, sae.W_enc.data, sae.b_dec.data = rows, rows.T.contiguous(), x.mean(0)
    some = ((x[:64] - x.mean(0)) @ rows.T[:, :65_536]).flatten()[:8_000_000].float()
    sae.b_enc.data = torch.full((d_sae,), -float(some.quantile(1 - l0 / d_sae)), device=x.device)
    return sae.requires_grad_(False).eval()


def timed(device: torch.device, work: Callable[[], object], repeats: int = 5) -> float:
    """The median seconds of ``work``, including the wait until the device has finished it."""
    spent = []
    for _ in range(repeats + 1):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        spent.append(time.perf_counter() - start)
    return sorted(spent[1:])[repeats // 2]


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished all of its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_rows(model: LanguageModel, options: argparse.Namespace) -> TokenRows:
    """Random token ids, all of which are counted."""
    length = 16 if options.tiny else 1024
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, model.vocab_size, (options.sequences, length), generator=generator)
    return TokenRows(ids, torch.ones_like(ids, dtype=torch.bool), "random")


@torch.inference_mode()
def necessary(model: LanguageModel, rows: TokenRows, d_sae: int, repeats: int) -> float:
    """The seconds of the unavoidable work per autoencoder, with each part measured alone."""
    device, dtype = model.device, model.dtype
    config = model._network.config
    (n, length), d = rows.ids.shape, model.d_model
    tokens = n * length

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    def product(d_in: int, d_out: int) -> float:
        some = min(tokens, max(256, (1 << 29) // d_out))
        x, weight = random(some, d_in), random(d_out, d_in)
        return timed(device, lambda: linear(x, weight), repeats) * tokens / some

    q = random(n, config.n_head, length, d // config.n_head)
    attention = timed(
        device, lambda: scaled_dot_product_attention(q, q, q, is_causal=True), repeats
    )
    block = product(d, 3 * d) + product(d, d) + product(d, 4 * d) + product(4 * d, d) + attention
    autoencoder = product(d, d_sae) + product(d_sae, d)
    unembedding = product(d, -(-model.vocab_size // 128) * 128)
    return autoencoder + (model.n_blocks - BLOCK) * block + unembedding


def loaded(folder: Path, options: argparse.Namespace, precision: str) -> LanguageModel:
    """The model, loaded in a precision."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    kind = torch.float32 if precision == "tf32" else getattr(torch, precision)
    return LanguageModel.load(str(folder), device=options.device, dtype=kind)


def measure(
    folder: Path, options: argparse.Namespace, precision: str, n_saes: int, d_sae: int
) -> str:
    """One line of the table."""
    model = loaded(folder, options, precision)
    device, rows = model.device, random_rows(model, options)
    x = model.activations(rows.ids[:1], HOOK)[0].float()
    saes = {str(i): random_sae(model.d_model, d_sae, 64, x) for i in range(n_saes)}
    engine = Engine(model, HOOK, rows)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    spent = timed(device, lambda: whole(engine, saes), options.repeats) / n_saes
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
    waited = waits(engine, saes)
    if options.profile:
        profile(engine, saes, options.out / f"profile-{precision}-{d_sae}.txt")
    floor = necessary(model, rows, d_sae, options.repeats)
    return (
        f"| {precision} | {n_saes} | {d_sae:,} | {rows.ids.numel() / spent:,.0f} "
        f"| {1e3 * spent:.2f} | {1e3 * floor:.2f} | {floor / spent:.2f} | {peak:.2f} "
        f"| {waited:g} | {engine.batch_size} |"
    )


def waits(engine: Engine, saes: dict[str, SparseAutoencoder]) -> float:
    """How often the host waits for the device for each further autoencoder in a group."""
    if engine.model.device.type != "cuda" or len(saes) < 2:
        return float("nan")

    def counted(names: list[str]) -> int:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                engine.measure_saes({name: saes[name] for name in names})
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in found)

    few, many = list(saes)[:2], list(saes)[:6]
    return (counted(many) - counted(few)) / max(1, len(many) - len(few))


def profile(engine: Engine, saes: dict[str, SparseAutoencoder], path: Path) -> None:
    """Write a table of the kernels that measuring takes, the longest first."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    some = dict(list(saes.items())[:8])
    engine.measure_saes(some)
    with torch.profiler.profile(activities=activities) as profiled:
        engine.measure_saes(some)
        synchronise(engine.model.device)
    on_gpu = engine.model.device.type == "cuda"
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    table = profiled.key_averages().table(sort_by=key, row_limit=45, max_name_column_width=90)
    path.write_text(table)


def measure_saelens(folder: Path, options: argparse.Namespace, d_sae: int) -> Iterator[str]:
    """SAELens's lines of the table, for one autoencoder, since it evaluates one at a time.

    It evaluates as many sequences at once as fit into memory.
    """
    from peers import saelens

    model = loaded(folder, options, "float32")
    rows = random_rows(model, options)
    x = model.activations(rows.ids[:1], HOOK)[0].float()
    sae = random_sae(model.d_model, d_sae, 64, x)
    for precision in ("float32", "tf32", "autocast"):
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        n = options.sequences
        while n:
            some = TokenRows(rows.ids[:n], rows.counted[:n], "random")
            try:
                evaluate = saelens(str(folder), HOOK, some, [sae], options.device)
                with torch.autocast(x.device.type, torch.bfloat16, precision == "autocast"):
                    spent = timed(x.device, lambda: evaluate(0), options.repeats)  # noqa: B023
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                n //= 4
                continue
            rate = some.ids.numel() / spent
            name = f"SAELens, {precision}, {n} rows"
            yield f"| {name} | 1 | {d_sae:,} | {rate:,.0f} | {1e3 * spent:.2f} | | | | | |"
            break


def main() -> None:
    """Parse the options, check, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--saes", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--check", action="store_true", help="compare with the CPU first")
    parser.add_argument("--profile", action="store_true", help="write profiles to --out")
    parser.add_argument("--precisions", nargs="*", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--saelens", action="store_true", help="measure SAELens too")
    parser.add_argument("--out", type=Path, help="a folder for the tables")
    options = parser.parse_args()
    if options.profile and options.out is None:
        parser.error("--profile needs --out")
    lines: list[str] = []

    def say(text: str) -> None:
        print(text, flush=True)
        lines.append(text)
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / "gpu.md").write_text("\n".join(lines) + "\n")

    d_sae, largest = (64, 256) if options.tiny else (24_576, 1_048_576)
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device
    say(f"{name}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        if options.check:
            random_model(Path(folder), tiny=True)
            for line in check(Path(folder), options.device, HOOK):
                say(line)
        random_model(Path(folder), tiny=options.tiny)
        say(HEADING)
        cases = [(precision, options.saes, d_sae) for precision in options.precisions]
        if "bfloat16" in options.precisions:
            cases.append(("bfloat16", 1, largest))
        for case in cases:
            try:
                say(measure(Path(folder), options, *case))
            except Exception:  # noqa: BLE001 - the other cases are measured nevertheless
                say(f"| {case[0]} | failed | |\n{traceback.format_exc()}")
        if options.saelens:
            for line in measure_saelens(Path(folder), options, d_sae):
                say(line)


if __name__ == "__main__":
    main()
