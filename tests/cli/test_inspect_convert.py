"""`inspect`, `convert`, and one frontier over a folder of several libraries' runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prolu_eval.checkpoints import load_sae
from prolu_eval.checkpoints.native import save_run
from prolu_eval.runs import EMBEDDED_MODEL, Run, RunConfig
from prolu_eval.saes import Prolu
from tests.helpers.cli import run
from tests.helpers.foreign_files import (
    Tensors,
    dictionary,
    e2e,
    gates,
    inputs,
    linear,
    matrices,
    saelens,
    sparsify,
    thresholds,
    top_k,
    write_json,
    write_pt,
)
from tests.helpers.format_checks import run_at
from tests.helpers.random_saes import OPTIONS, random_sae

HOOK = "blocks.1.hook_resid_post"
W, G, T, X = matrices(), gates(), thresholds(), inputs()


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder of runs of four libraries, and of broken, refused and unknown checkpoints."""
    runs = tmp_path / "runs"
    config = RunConfig(variant="", d_in=1, d_sae=1, model="tiny", hook=HOOK, penalty="l1")
    save_run(runs / "native", random_sae("prolu", {}, seed=0), config)
    saelens(runs / "lens" / "jump", "jumprelu", W | T)
    saelens(runs / "lens" / "trans", "transcoder", W, d_out=6)
    saelens(runs / "lens" / "temporal", "temporal", W)
    dictionary(runs / "trainer_0", "BatchTopKSAE", top_k(W, threshold=-1.0))
    sparsify(runs / "eleuther" / "layers.1", W)
    e2e(runs / "apollo", {"blocks-1-hook_resid_post": W, "blocks-3-hook_resid_post": W})
    broken = sparsify(runs / "broken", W)
    (broken / "sae.safetensors").write_bytes(b"no tensors")
    write_pt(runs / "notes" / "optimizer.pt", {"lr": 1.0})
    write_pt(runs / "alone" / "ae.pt", top_k(W))
    (runs / "linked").symlink_to(tmp_path, target_is_directory=True)
    return runs


def test_inspect_lists_what_is_there_and_says_what_it_skipped(
    mixed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ran = run(capfd, "inspect", mixed, "--json")
    assert ran.code == 1, "some runs cannot be evaluated"
    assert list(ran.json()) == ["runs"]
    found = {document["run"]: document for document in ran.json()["runs"]}
    assert list(found) == [
        "apollo/samples_400.pt:blocks.1.hook_resid_post",
        "apollo/samples_400.pt:blocks.3.hook_resid_post",
        "broken",
        "eleuther/layers.1",
        "lens/jump",
        "lens/temporal",
        "lens/trans",
        "native",
        "trainer_0",
    ]
    keys = {"run", "path", "format", "variant", "gradient", "penalty", "coefficient", "k", "d_in",
            "d_sae", "hook", "hook_out", "model"}  # fmt: skip
    for document in found.values():  # native runs tell where they were trained, too
        assert document.keys() - {"environments"} == keys | {"problems"}
    assert found["native"] == {
        "run": "native",
        "path": str(mixed / "native"),
        "format": "native",
        "variant": "prolu",
        "gradient": "ste",
        "penalty": "l1",
        "coefficient": None,
        "k": None,
        "d_in": 8,
        "d_sae": 16,
        "hook": HOOK,
        "hook_out": None,
        "model": "tiny",
        "environments": [],
        "problems": [],
    }
    assert (found["lens/jump"]["format"], found["lens/jump"]["variant"]) == ("saelens", "jumprelu")
    assert found["trainer_0"]["format"] == "dictionary_learning"
    assert "threshold was never set" in found["trainer_0"]["problems"][0]
    assert found["eleuther/layers.1"]["problems"] == [
        "it does not say its model: give it with --model"
    ]
    assert found["broken"]["format"] is None
    assert "cannot be read" in found["broken"]["problems"][0]
    assert found["lens/trans"]["problems"] == [
        "it does not say its hook-out: give it with --hook-out"
    ]
    assert "is a temporal" in found["lens/temporal"]["problems"][0]
    for line in (
        f"{mixed / 'alone' / 'ae.pt'} skipped: there is no config.json beside it.",
        f"{mixed / 'linked'} skipped: links to folders are not followed; "
        "name the link itself to read it.",
    ):
        assert f"prolu-eval: {line}\n" in ran.err
    assert "optimizer" not in ran.err


def test_inspect_prints_a_table(mixed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ran = run(capfd, "inspect", mixed)
    lines = ran.out.splitlines()
    assert lines[0].split() == ["run", "format", "variant", "gradient", "penalty", "coefficient",
                                "k", "d_in", "d_sae", "hook", "hook_out", "model"]  # fmt: skip
    (native,) = [line for line in lines if line.startswith("native ")]
    assert native.split() == ["native", "native", "prolu", "ste", "l1", "-", "-", "8", "16", HOOK,
                              "-", "tiny"]  # fmt: skip
    assert any(line.startswith("    ! its threshold was never set") for line in lines)


def test_inspect_weights_loads_every_checkpoint(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    saelens(tmp_path / "good", "standard", W)
    saelens(tmp_path / "bad", "standard", W | {"b_enc": torch.full((10,), torch.nan)})
    assert run(capfd, "inspect", tmp_path).code == 0
    ran = run(capfd, "inspect", tmp_path, "--weights", "--json")
    assert ran.code == 1
    bad, good = ran.json()["runs"]
    assert "NaN" in bad["problems"][0]
    assert (bad["variant"], good["problems"]) == ("relu", [])


def test_inspect_of_what_is_not_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        ran = run(capfd, "inspect", path)
        assert (ran.code, ran.out) == (2, "")
        assert str(path) in ran.err
    saelens(tmp_path / "x", "temporal", W)
    assert run(capfd, "inspect", tmp_path).code == 2, "nothing here can be evaluated"


def test_inspect_prints_names_of_any_characters_on_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    metadata = {"hook_name": "a\nb\x1b[31m\ud800", "model_name": "m"}
    saelens(tmp_path / "run", "standard", W, metadata=metadata)
    ran = run(capfd, "inspect", tmp_path)
    assert ran.code == 0
    assert len(ran.out.splitlines()) == 2
    assert "\x1b" not in ran.out
    assert (
        run(capfd, "inspect", tmp_path, "--json").json()["runs"][0]["hook"] == "a\nb\x1b[31m\ud800"
    )


@pytest.mark.parametrize("to", ["native", "saelens"])
def test_convert_writes_what_loads_as_the_same(
    mixed: Path, tmp_path: Path, to: str, capfd: pytest.CaptureFixture[str]
) -> None:
    ran = run(capfd, "convert", mixed, tmp_path / "to", "--to", to, "--json")
    assert ran.code == 1
    outcomes = {document["run"]: document for document in ran.json()["runs"]}
    assert {name for name, o in outcomes.items() if o["error"]} == {"broken", "lens/temporal"}
    for name, outcome in outcomes.items():
        if outcome["error"]:
            assert outcome["path"] is None
            assert f"prolu-eval: {name} skipped: " in ran.err
            continue
        assert outcome["path"] == str(tmp_path / "to" / name.replace(":", "/"))
        assert run_at(Path(outcome["path"])).format == to
    for name in ("lens/jump", "lens/trans", "trainer_0", "eleuther/layers.1"):
        before, after = load_sae(mixed / name), load_sae(tmp_path / "to" / name)
        assert torch.equal(after.encode(X), before.encode(X))
        assert torch.equal(after(X), before(X))


@pytest.mark.parametrize(("variant", "options"), OPTIONS)
def test_every_variant_goes_to_saelens_or_is_told_not_to(
    tmp_path: Path, variant: str, options: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    sae = random_sae(variant, options, seed=4, apply_b_dec_to_input=variant == "matching_pursuit")
    save_run(tmp_path / "a", sae, RunConfig(variant="", d_in=1, d_sae=1, hook=HOOK))
    ran = run(capfd, "convert", tmp_path / "a", tmp_path / "b", "--to", "saelens")
    if variant in ("tlin", "groupmax", "tanh_relu", "nnls") or options.get("rectify") is False:
        assert ran.code == 2
        assert "no architecture equal to" in ran.err
        assert not (tmp_path / "b").exists()
        return
    assert (ran.code, ran.out) == (0, f"Wrote {tmp_path / 'b'}\n")
    x = torch.randn(50, sae.d_in)
    torch.testing.assert_close(load_sae(tmp_path / "b")(x), sae(x), rtol=1e-5, atol=1e-5)
    assert run_at(tmp_path / "b").hook == HOOK


def test_a_head_stays_the_one_that_is_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hook = {"hook_name": "blocks.1.attn.hook_z", "hook_head_index": 2}
    saelens(tmp_path / "a", "standard", W, metadata=hook)
    for source, target, to in (("a", "b", "native"), ("b", "c", "saelens")):
        assert run(capfd, "convert", tmp_path / source, tmp_path / target, "--to", to).code == 0
        assert run_at(tmp_path / target).hook == "blocks.1.attn.hook_z[2]"
    written = json.loads((tmp_path / "c" / "cfg.json").read_text())["metadata"]
    assert (written["hook_name"], written["hook_head_index"]) == ("blocks.1.attn.hook_z", 2)


def test_convert_keeps_what_the_run_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = linear(W) | {"bias": W["b_dec"]}
    source = dictionary(tmp_path / "a", "AutoEncoder", state, l1_penalty=0.5)
    assert run(capfd, "convert", source, tmp_path / "n", "--to", "native").code == 0
    assert run(capfd, "convert", tmp_path / "n", tmp_path / "s", "--to", "saelens").code == 0
    original, native, lens = (run_at(tmp_path / name) for name in "ans")
    for name in ("hook", "model", "context_length", "prepend_bos", "weight_processing"):
        assert getattr(original, name) == getattr(native, name) == getattr(lens, name)
    for name in ("coefficient", "learning_rate", "seed"):
        assert getattr(original, name) == getattr(native, name)
    config = json.loads((source / "config.json").read_text())
    kept = native.provenance["config"]["training"]["converted_from"]
    assert (kept["library"], kept["format"]) == ("dictionary_learning", "dictionary_learning")
    assert kept["config"] == config
    within = lens.provenance["config"]["metadata"]["converted_from"]
    assert within["config"]["training"]["converted_from"]["config"] == config


def test_convert_keeps_that_weights_were_processed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    e2e(tmp_path / "a", {"blocks-1-hook_resid_post": W})
    for to in ("native", "saelens"):
        assert run(capfd, "convert", tmp_path / "a", tmp_path / to, "--to", to).code == 0
        assert run_at(tmp_path / to).weight_processing == "processed"


def test_convert_overwrites_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saelens(tmp_path / "a", "standard", W)
    (tmp_path / "b").mkdir()
    assert run(capfd, "convert", tmp_path / "a", tmp_path / "b", "--to", "native").code == 0
    before = (tmp_path / "b" / "config.json").read_bytes()
    ran = run(capfd, "convert", tmp_path / "a", tmp_path / "b", "--to", "saelens")
    assert ran.code == 2
    assert "exists already" in ran.err
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"config.json", "sae.safetensors"}
    assert (tmp_path / "b" / "config.json").read_bytes() == before


def test_convert_to_no_format(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saelens(tmp_path / "a", "standard", W)
    ran = run(capfd, "convert", tmp_path / "a", tmp_path / "b", "--to", "onnx")
    assert ran.code == 2
    assert "choose native or saelens" in ran.err


def test_runs_of_four_libraries_are_on_one_frontier(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs, d_in, d_sae = tmp_path / "runs", 96, 128
    weights: list[Tensors] = [matrices(seed, d_in, d_sae) for seed in range(4)]
    native = Prolu(d_in, d_sae)
    for name, tensor in weights[0].items():
        native.get_parameter(name).data = 0.1 * tensor
    config = RunConfig(variant="", d_in=1, d_sae=1, model=EMBEDDED_MODEL, hook=HOOK)
    save_run(runs / "ours", native, config)
    metadata = {"model_name": EMBEDDED_MODEL, "hook_name": HOOK, "prepend_bos": True}
    threshold = {"threshold": torch.full((d_sae,), 5.0)}
    saelens(
        runs / "lens", "jumprelu", weights[1] | threshold, d_in=d_in, d_sae=d_sae, metadata=metadata
    )
    dictionary(runs / "trainer_0", "AutoEncoderTopK", top_k(weights[2], 8), lm_name=EMBEDDED_MODEL)
    write_json(runs / "eleuther" / "config.json", {"model": EMBEDDED_MODEL, "ctx_len": 512})
    sparsify(runs / "eleuther" / "layers.1", weights[3], d_in=d_in, k=4)
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(1, 200, 400))
    ran = run(
        capfd, "frontier", runs, "--tokens", tmp_path / "ids.npy", "--context-length", 20,
        "--device", "cpu", "--quiet", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    document = ran.json()
    names = {"ours", "lens", "trainer_0", "eleuther/layers.1"}
    assert {outcome["run"] for outcome in document["runs"]} == names
    assert {outcome["status"] for outcome in document["runs"]} == {"ok"}
    assert set(document["frontier"]) <= names
    assert len(document["variants"]) == 3, "two of them are topk"
    formats = {outcome["format"] for outcome in document["runs"]}
    assert formats == {"native", "saelens", "dictionary_learning", "sparsify"}
    report = Path(document["report"]).read_text()
    assert all(name in report for name in names)


def test_a_file_may_be_named_itself(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = saelens(tmp_path / "a", "standard", W)
    saelens(tmp_path / "b", "standard", W)
    for path in (folder, folder / "sae_weights.safetensors", folder / "cfg.json"):
        (document,) = run(capfd, "inspect", path, "--json").json()["runs"]
        assert document["path"] == str(folder)
        assert isinstance(run_at(folder), Run)
