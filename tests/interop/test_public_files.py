"""Files as others publish them, read by SAELens' own loaders and by prolu-eval."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from prolu_eval.checkpoints import load_sae
from prolu_eval.releases import all_entries
from tests.helpers import foreign_files as files
from tests.interop.agreement import assert_same

W, T, X = files.matrices(), files.thresholds(), files.inputs()
SIZES = {"d_in": files.D_IN, "d_sae": files.D_SAE, "dtype": "float32"}
QWEN = "SAE-Res-Qwen3-1.7B-Base-W32K-L0_3"

Theirs = Callable[..., Any]


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Theirs:
    """Loads a folder as if it were on the hub, by one of SAELens' loaders."""

    def download(repo_id: str, filename: str, subfolder: str | None = None, **_: Any) -> str:
        return str(tmp_path / (repo_id.split("/")[1]) / (subfolder or "") / filename)

    monkeypatch.setattr(loaders, "hf_hub_download", download)

    def load(loader: str, repository: str, folder: str, **overrides: Any) -> Any:
        def converter(cfg_overrides: dict[str, Any], **given: Any) -> Any:
            return loaders.NAMED_PRETRAINED_SAE_LOADERS[loader](
                **given, cfg_overrides=cfg_overrides | overrides
            )

        sae, _, _ = SAE.from_pretrained_with_cfg_and_sparsity(
            repository, folder, converter=converter
        )
        return sae

    return load


def same(sae: Any, path: Path) -> None:
    with torch.no_grad():
        assert_same(load_sae(path), X, sae.encode(X), sae(X))


def test_qwen_scope(tmp_path: Path, theirs: Theirs) -> None:
    path = files.qwen_scope(tmp_path / QWEN / "layer3.sae.pt", W)
    same(theirs("qwen_scope", f"Qwen/{QWEN}", "layer3.sae.pt", **SIZES), path)


def test_llama_scope(tmp_path: Path, theirs: Theirs) -> None:
    path = files.llama_scope(tmp_path / "scope" / "L1R", W)
    sae = theirs("llama_scope", "fnlp/scope", "L1R", dtype="float32")
    sae.fold_activation_norm_scaling_factor(files.D_IN**0.5 / 3.5)  # of SAELens' table
    same(sae, path)


def test_llama_scope_r1_distill(tmp_path: Path, theirs: Theirs) -> None:
    norm = {"dataset_average_activation_norm.blocks.1.hook_resid_post": torch.tensor(3.5)}
    path = files.llama_scope_r1(tmp_path / "r1" / "L1R", W | T, norm)
    sae = theirs("llama_scope_r1_distill", "fnlp/r1", "L1R", **SIZES)
    sae.fold_activation_norm_scaling_factor(files.D_IN**0.5 / 3.5)
    same(sae, path)


def test_goodfire(tmp_path: Path, theirs: Theirs) -> None:
    repository, file = "Llama-3.1-8B-Instruct-SAE-l19", "Llama-3.1-8B-Instruct-SAE-l19.pth"
    path = files.goodfire(tmp_path / repository / file, W)
    same(theirs("goodfire", f"Goodfire/{repository}", file, **SIZES), path)


def test_qresearch(tmp_path: Path, theirs: Theirs) -> None:
    file = "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"
    path = files.goodfire(tmp_path / "r1" / file, W, "")
    same(theirs("deepseek_r1", "qresearch/r1", file, **SIZES), path)


def test_kissane(tmp_path: Path, theirs: Theirs) -> None:
    path = files.kissane(tmp_path / "attn", "gpt2-small_L1_v9", W)
    sae = theirs("connor_rob_hook_z", "ckkissane/attn", "gpt2-small_L1_v9.pt")
    by_head = X.reshape(len(X), 2, -1)
    with torch.no_grad():
        assert_same(load_sae(path), X, sae.encode(by_head), sae(by_head).flatten(-2))


def test_gemma_scope(tmp_path: Path, theirs: Theirs) -> None:
    repository, folder = "gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71"
    path = files.gemma_scope(tmp_path / repository / folder, W | T)
    same(theirs("gemma_2", f"google/{repository}", folder, **SIZES), path)


def test_the_installed_table_is_read_without_importing_the_package() -> None:
    code = (
        "import sys; from prolu_eval.releases import entries; "
        "(one,) = entries('saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre'); "
        "print(one.repository, one.overrides['model_from_pretrained_kwargs'], "
        "'sae_lens' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    centred = "{'center_writing_weights': True}"
    assert ran.stdout.strip() == f"jbloom/GPT2-Small-SAEs-Reformatted {centred} False"


def test_every_entry_of_the_table_is_understood() -> None:
    found = {(entry.release, entry.sae_id): entry for entry in all_entries()}
    directory = get_pretrained_saes_directory()
    assert found.keys() == {(r, i) for r, release in directory.items() for i in release.saes_map}
    for (release, sae_id), entry in found.items():
        theirs = directory[release]
        assert (entry.repository, entry.path) == (theirs.repo_id, theirs.saes_map[sae_id])
        assert entry.scale == theirs.norm_scaling_factor.get(sae_id)
        assert entry.overrides == (theirs.config_overrides or {})


def same_transcoder(transcoder: Any, path: Path) -> None:
    with torch.no_grad():
        assert_same(load_sae(path), X, transcoder.encode(X), transcoder(X))


def test_gemma_scope_transcoders(tmp_path: Path, theirs: Theirs) -> None:
    repository, folder = "gemma-scope-2b-pt-transcoders", "layer_2/width_16k/average_l0_7"
    path = files.gemma_scope(tmp_path / repository / folder, W | T)
    sizes = SIZES | {"d_out": files.D_IN}
    same_transcoder(theirs("gemma_2_transcoder", f"google/{repository}", folder, **sizes), path)


@pytest.mark.parametrize("skip", [True, False])
def test_circuit_tracers_own_transcoders(tmp_path: Path, skip: bool) -> None:
    single = pytest.importorskip("circuit_tracer.transcoder.single_layer_transcoder")
    tensors = W | T | ({"W_skip": 0.1 * torch.randn(files.D_IN, files.D_IN)} if skip else {})
    path = files.circuit_tracer(tmp_path, 3, tensors)
    transcoder = single.load_relu_transcoder(
        str(path), 3, torch.device("cpu"), lazy_encoder=False, lazy_decoder=False
    )
    same_transcoder(transcoder, path)


@pytest.mark.parametrize("affine", [True, False])
def test_gemma_scope_2_transcoders(tmp_path: Path, affine: bool) -> None:
    single = pytest.importorskip("circuit_tracer.transcoder.single_layer_transcoder")
    tensors = {n.replace("W_", "w_"): t for n, t in (W | T).items()}
    if affine:
        tensors["affine_skip_connection"] = 0.1 * torch.randn(files.D_IN, files.D_IN)
    folder = tmp_path / "transcoder_all" / "layer_3_width_16k"
    files.write_tensors(folder / "params.safetensors", tensors)
    transcoder = single.load_gemma_scope_2_transcoder(
        str(folder / "params.safetensors"), 3, torch.device("cpu")
    )
    same_transcoder(transcoder, folder)


def same_clt(clt: Any, path: Path) -> None:
    """Codes and outputs agree with circuit-tracer's, whose axis of layers precedes the tokens'."""
    x = torch.randn(7, 3, files.D_IN, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        codes = clt.encode(x.transpose(0, 1))
        y_hat = clt.decode(codes.to_sparse(), x.transpose(0, 1)).transpose(0, 1)
    assert_same(load_sae(path), x, codes.transpose(0, 1).flatten(1), y_hat)


@pytest.mark.parametrize("jump", [True, False])
def test_circuit_tracers_own_cross_layer_transcoders(tmp_path: Path, jump: bool) -> None:
    cross = pytest.importorskip("circuit_tracer.transcoder.cross_layer_transcoder")
    folder = files.circuit_tracer_clt(tmp_path / "clt", files.clt_layers(3, jump=jump))
    kept = {"lazy_encoder": False, "lazy_decoder": False, "dtype": torch.float32}
    same_clt(cross.load_clt(str(folder), device=torch.device("cpu"), **kept), folder)


@pytest.mark.parametrize("affine", [True, False])
def test_gemma_scope_2_cross_layer_transcoders(tmp_path: Path, affine: bool) -> None:
    cross = pytest.importorskip("circuit_tracer.transcoder.cross_layer_transcoder")
    layers = files.clt_layers(3)
    if affine:
        layers = [w | {"W_skip": 0.1 * torch.randn(files.D_IN, files.D_IN)} for w in layers]
    folder = files.gemma_scope_2_layers(tmp_path / "clt" / "width_16k", layers)
    paths = {i: str(folder / f"params_layer_{i}.safetensors") for i in range(3)}
    # Version 0.5 leaves out the last one that it is given.
    clt = cross.load_gemma_scope_2_clt(
        paths | {3: paths[2]}, device=torch.device("cpu"), dtype=torch.float32
    )
    same_clt(clt, folder)
