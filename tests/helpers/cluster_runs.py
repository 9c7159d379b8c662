"""Runs of several formats, at several hooks of tiny models, and their expected results."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prolu_eval.checkpoints.native import save_run
from prolu_eval.cluster.pool import LocalPool
from prolu_eval.evaluation import EvaluationOptions, Outcome, evaluate
from prolu_eval.evaluation.distributed import SERVICE, config_of
from prolu_eval.results import Result, read_result
from prolu_eval.runs import RunConfig
from prolu_eval.saes import Relu
from tests.helpers.foreign_files import dictionary, linear, matrices, saelens, sparsify, write_json

D_IN, D_SAE = 32, 40
HOOKS = ("blocks.0.hook_mlp_out", "blocks.1.hook_resid_post", "blocks.2.hook_resid_pre")
DL_HOOKS = {"resid_post_layer_1": HOOKS[1], "mlp_out_layer_0": HOOKS[0]}
SPARSIFY_HOOKS = {"layers.1": HOOKS[1], "layers.0.mlp": HOOKS[0]}
N_ROWS, SHARD_TOKENS = 40, 320


def _native(folder: Path, tensors: Mapping[str, torch.Tensor], model: str, hook: str) -> None:
    sae = Relu(D_IN, D_SAE)
    for name, tensor in tensors.items():
        getattr(sae, name).data = tensor
    config = RunConfig(variant="", d_in=1, d_sae=1, hook=hook, model=model, context_length=32)
    save_run(folder, sae, config)


def _saelens(folder: Path, tensors: Mapping[str, torch.Tensor], model: str, hook: str) -> None:
    about = {"model_name": model, "hook_name": hook, "prepend_bos": True}
    saelens(folder, "standard", dict(tensors), d_in=D_IN, d_sae=D_SAE, metadata=about)


def _dictionary(folder: Path, tensors: Mapping[str, torch.Tensor], model: str, hook: str) -> None:
    state = {**linear(dict(tensors)), "bias": tensors["b_dec"]}
    module = next((name for name, found in DL_HOOKS.items() if found == hook), "resid_post_layer_1")
    dictionary(
        folder, "AutoEncoder", state, activation_dim=D_IN, dict_size=D_SAE, lm_name=model,
        submodule_name=module, layer=int(module[-1]),
        buffer={"d_submodule": D_IN, "io": "out", "ctx_len": 32},
    )  # fmt: skip


def _sparsify(folder: Path, tensors: Mapping[str, torch.Tensor], model: str, hook: str) -> None:
    site = next((name for name, found in SPARSIFY_HOOKS.items() if found == hook), "layers.1")
    write_json(folder / "config.json", {"model": model, "ctx_len": 32})
    sparsify(folder / site, dict(tensors), d_in=D_IN)


FORMATS: Mapping[str, Callable[..., None]] = {
    "native": _native,
    "saelens": _saelens,
    "dictionary": _dictionary,
    "sparsify": _sparsify,
}


def write_runs(folder: Path, models: Sequence[Path], n: int) -> Path:
    """Write n runs into ``runs/``, of each format, hook and model in turn, and tokens beside it."""
    ids = np.random.default_rng(0).integers(1, 96, (N_ROWS, 32))
    np.save(folder / "ids.npy", ids)
    for i in range(n):
        name = list(FORMATS)[i % len(FORMATS)]
        hook = HOOKS[i // len(FORMATS) % len(HOOKS)]
        model = models[(i + i // len(FORMATS)) % len(models)]
        tensors = matrices(i, D_IN, D_SAE)
        tensors["b_enc"] -= 2.0
        tensors["W_enc"] *= 0.3
        FORMATS[name](folder / "runs" / f"{i:02}-{name}", tensors, str(model), hook)
    return folder


def local(options: EvaluationOptions) -> LocalPool:
    """Two workers in this process, on two nodes."""
    return LocalPool(SERVICE, config_of(options), ["a", "b"])


def options_of(folder: Path, results: Path, **more: Any) -> EvaluationOptions:
    """The options with which these runs are evaluated."""
    chosen = {"context_length": 32, "device": "cpu", "shard_tokens": SHARD_TOKENS, **more}
    return EvaluationOptions(
        tokens=str(folder / "ids.npy"), results=results, weight_processing="none", **chosen
    )


def undisturbed(folder: Path, **more: Any) -> dict[str, Result]:
    """The results of an evaluation in one process, by name."""
    outcomes = evaluate(folder / "runs", options_of(folder, folder / "undisturbed", **more))
    return {o.name: o.result for o in outcomes if o.result is not None}


def assert_same(results: Path, expected: Mapping[str, Result], *, exactly: bool = False) -> None:
    """Assert that a folder holds the results of an undisturbed evaluation, and nothing else.

    Sums over the same portions must agree bit for bit; sums over other portions, up to float32
    rounding within a batch.
    """
    files = [path for path in results.rglob("*") if path.is_file()]
    assert len(files) == 2 * len(expected), sorted(map(str, files))
    for name, result in expected.items():
        (path,) = (results / name).glob("*.json")
        found = read_result(path)
        assert found.fingerprint == result.fingerprint
        assert found.run == result.run
        for key, scalar in result.metrics.items():
            got = found.metrics[key].value
            if exactly or got is None:
                assert got == scalar.value, (name, key)
            else:
                assert abs(got - (scalar.value or 0)) <= 1e-6 * abs(scalar.value or 0) + 1e-9, key
        assert found.arrays.keys() == result.arrays.keys()
        for key, array in result.arrays.items():
            if exactly:
                np.testing.assert_array_equal(found.arrays[key], array, err_msg=key)
            else:
                np.testing.assert_allclose(
                    found.arrays[key], array, rtol=1e-5, atol=1e-6, err_msg=key
                )


def statuses(outcomes: Sequence[Outcome]) -> set[str]:
    """The statuses of outcomes."""
    return {outcome.status for outcome in outcomes}
