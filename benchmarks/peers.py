"""Speed compared with other tools: ``python benchmarks/peers.py --model FOLDER --tokens FILE``.

All evaluators measure the same autoencoders with the same language model and tokens: L0, L1,
squared error, firing rates, and cross-entropy clean, spliced and ablated, each on every token. The
evaluators alternate. The script prints medians of the repeats, as multiples of the floor
(:mod:`benchmarks.engine`) too, and the differences between the values of SAELens and prolu-eval. It
needs sae-lens and dictionary-learning.
"""

import argparse
import copy
import importlib.metadata
import itertools
import os
import platform
from collections.abc import Callable, Mapping
from typing import Any

import datasets
import torch
from engine import floor, made_sae, seconds, whole

from prolu_eval.evaluation.engine import Engine
from prolu_eval.intervals import estimate
from prolu_eval.lm import LanguageModel
from prolu_eval.metrics import METRICS
from prolu_eval.saes import SparseAutoencoder
from prolu_eval.tokens import TokenRows, load_tokens

Evaluator = Callable[[int], Mapping[str, float]]


def saelens(
    folder: str, hook: str, rows: TokenRows, saes: list[SparseAutoencoder], device: str = "cpu"
) -> Evaluator:
    """SAELens's ``run_evals`` of one autoencoder, on its faster model class."""
    from sae_lens import ActivationsStore, StandardSAE, StandardSAEConfig
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
    from sae_lens.evals import EvalConfig, run_evals
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.training.activation_scaler import ActivationScaler

    model = SAETransformerBridge.boot_transformers(folder, device=device)
    model.enable_compatibility_mode(no_processing=True)  # else hooks at alias names have no effect
    n, length = rows.ids.shape
    data = datasets.Dataset.from_dict({"tokens": rows.ids.tolist() * 4})
    config = EvalConfig(
        batch_size_prompts=n,
        n_eval_reconstruction_batches=1,
        n_eval_sparsity_variance_batches=1,
        compute_kl=True,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
    )
    theirs = []
    for ours in saes:
        about = SAEMetadata(hook_name=hook, context_size=length, prepend_bos=True)
        config_of_one = StandardSAEConfig(
            d_in=ours.d_in, d_sae=ours.d_sae, device=device, metadata=about
        )
        sae = StandardSAE(config_of_one)
        sae.load_state_dict({name: value.clone() for name, value in ours.state_dict().items()})
        theirs.append(sae.eval())

    def evaluate(i: int) -> Mapping[str, float]:
        store = ActivationsStore.from_sae(
            model,
            theirs[i],
            dataset=data,
            context_size=length,
            streaming=False,
            store_batch_size_prompts=n,
            n_batches_in_buffer=2,
            train_batch_size_tokens=n * length,
            device=device,
        )
        found, _ = run_evals(theirs[i], store, model, ActivationScaler(), config)
        losses, sparsity = found["model_performance_preservation"], found["sparsity"]
        return {
            "l0": sparsity["l0"],
            "l1_raw": sparsity["l1"],
            "mse": found["reconstruction_quality"]["mse"],
            "ce_clean": losses["ce_loss_without_sae"],
            "ce_spliced": losses["ce_loss_with_sae"],
        }

    return evaluate


def dictionary_learning(
    folder: str, hook: str, rows: TokenRows, saes: list[SparseAutoencoder], tokenizer: Any
) -> Evaluator:
    """dictionary_learning's ``evaluate`` of one autoencoder, with its loss recovered."""
    from dictionary_learning import AutoEncoder
    from dictionary_learning.buffer import ActivationBuffer
    from dictionary_learning.evaluation import evaluate as their_evaluate
    from nnsight import LanguageModel as Traced
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = copy.deepcopy(tokenizer)
    # The tokenizer is called with padding, although no row needs it.
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = Traced(network, tokenizer=tokenizer, dispatch=True)
    block = model.model.layers[int(hook.split(".")[1])]
    texts = [tokenizer.decode(row[1:]) for row in rows.ids]
    n, length = rows.ids.shape
    buffer = ActivationBuffer(
        itertools.cycle(texts), model, block, d_submodule=saes[0].d_in, n_ctxs=n, ctx_len=length,
        refresh_batch_size=n, out_batch_size=n * length // 2, device="cpu",
    )  # fmt: skip
    theirs = []
    for ours in saes:
        sae = AutoEncoder(ours.d_in, ours.d_sae)
        sae.encoder.weight.data, sae.encoder.bias.data = ours.W_enc.T.contiguous(), ours.b_enc
        sae.decoder.weight.data, sae.bias.data = ours.W_dec.T.contiguous(), ours.b_dec
        theirs.append(sae)
    # A buffer returns half of its content before it refills, so n * length tokens are two batches.
    return lambda i: their_evaluate(
        theirs[i], buffer, max_len=length, batch_size=n // 2, device="cpu", n_batches=2
    )


def main() -> None:
    """Parse the options, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a Llama-like model")
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--hook", default="blocks.2.hook_resid_post")
    parser.add_argument("--d-sae", type=int, default=1024)
    parser.add_argument("--saes", type=int, default=32)
    parser.add_argument("--peer-saes", type=int, default=8, help="SAEs that a peer evaluates")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    model = LanguageModel.load(options.model, device="cpu")
    rows = load_tokens(
        options.tokens, model, split="all", n_tokens=128 * options.sequences, context_length=128
    )
    x = model.activations(rows.ids, options.hook)[rows.counted]
    saes = [made_sae(x, options.d_sae, 32, seed) for seed in range(options.saes)]
    engine = Engine(model, options.hook, rows)
    named = {str(i): sae for i, sae in enumerate(saes)}
    peers = {"SAELens run_evals": saelens(options.model, options.hook, rows, saes)}
    try:
        peers["dictionary_learning evaluate"] = dictionary_learning(
            options.model, options.hook, rows, saes, model.tokenizer
        )
    except (AttributeError, ImportError, TypeError) as error:
        print(f"dictionary_learning cannot be run here: {type(error).__name__}: {error}")
    few = min(options.peer_saes, options.saes)
    times: dict[str, list[float]] = {}
    for _ in range(options.repeats + 1):  # the first warms up
        for name, evaluate in peers.items():
            spent = seconds(lambda: [evaluate(i) for i in range(few)])  # noqa: B023 - at once
            times.setdefault(name, []).append(spent / few)
        spent = seconds(lambda: whole(engine, named))
        times.setdefault("prolu-eval", []).append(spent / len(saes))
        with torch.inference_mode():
            times.setdefault("floor", []).append(floor(model, options.hook, rows, saes[0]))
    report(options, rows, times)
    compare(engine, named, peers["SAELens run_evals"])


def report(options: argparse.Namespace, rows: TokenRows, times: Mapping[str, list[float]]) -> None:
    """Print the table of medians."""
    medians = {name: sorted(spent[1:])[options.repeats // 2] for name, spent in times.items()}
    packages = ("torch", "transformers", "transformer-lens", "sae-lens", "dictionary-learning")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs; {versions}")
    print(f"{options.saes} SAEs of d_sae {options.d_sae}, {rows.ids.numel()} tokens per metric")
    print("| evaluator | tokens per second and SAE | times SAELens | time over the floor |")
    print("|---|---|---|---|")
    for name, spent in medians.items():
        print(
            f"| {name} | {rows.ids.numel() / spent:,.0f} "
            f"| {medians['SAELens run_evals'] / spent:.1f} | {spent / medians['floor']:.2f} |"
        )


def compare(engine: Engine, named: Mapping[str, SparseAutoencoder], evaluate: Evaluator) -> None:
    """Print SAELens's values next to those of prolu-eval, for metrics with the same definition."""
    total, count = engine.sum_of_activations()
    sums = {**engine.reference(total / count), **engine.measure_saes({"0": named["0"]})["0"].by_row}
    for key, theirs in evaluate(0).items():
        ours = estimate(METRICS[key], sums).value
        print(f"{key}: prolu-eval {ours:.6g}, SAELens {theirs:.6g}, ratio {ours / theirs:.6f}")


if __name__ == "__main__":
    main()
