"""SAELens writes, prolu-eval reads, and both compute the same; and the other way round."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from sae_lens import SAE
from sae_lens.config import SAETrainerConfig
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY
from sae_lens.saes.sae import SAEMetadata
from sae_lens.training.sae_trainer import SAETrainer

from prolu_eval.checkpoints import discover, load_sae
from prolu_eval.checkpoints.native import save_run
from prolu_eval.cli import main
from prolu_eval.runs import Broken, Run, RunConfig
from tests.helpers.random_saes import OPTIONS, random_sae
from tests.interop.agreement import D_IN, D_SAE, TOLERANCE, assert_same, inputs, randomise

REFUSED = ("temporal",)
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder",
               "jumprelu_skip_transcoder")  # fmt: skip
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "standard": [{}],
    "gated": [{}],
    "jumprelu": [{}],
    "topk": [{"k": 5, "rescale_acts_by_decoder_norm": on} for on in (False, True)],
    "abstopk": [{"k": 5, "rescale_acts_by_decoder_norm": on} for on in (False, True)],
    "matching_pursuit": [
        {"residual_threshold": 0.5, "max_iterations": 6},
        {"residual_threshold": 1e-2, "stop_on_duplicate_support": False, "max_iterations": 4},
    ],
}
COMMON = [
    {"apply_b_dec_to_input": subtract, "normalize_activations": how}
    for subtract, how in itertools.product(
        (True, False), ("none", "layer_norm", "constant_norm_rescale")
    )
]
CASES = [
    (name, own | common)
    for name, choices in SETTINGS.items()
    for own in choices
    for common in COMMON
]
METADATA = {"model_name": "tiny", "hook_name": "blocks.1.hook_resid_post", "context_size": 32}


def metadata() -> Any:
    return SAEMetadata(**METADATA)


def compare(theirs: Any, path: Path) -> None:
    x = inputs()
    assert_same(load_sae(path), x, theirs.encode(x), theirs(x))


def test_every_architecture_is_covered() -> None:
    assert SAE_CLASS_REGISTRY.keys() == SETTINGS.keys() | {*REFUSED, *TRANSCODERS}
    assert SAE_TRAINING_CLASS_REGISTRY.keys() == TRAINED.keys()


@pytest.mark.parametrize(("architecture", "settings"), CASES)
def test_inference(tmp_path: Path, architecture: str, settings: dict[str, Any]) -> None:
    cls, config = SAE_CLASS_REGISTRY[architecture]
    sae = cls(config(d_in=D_IN, d_sae=D_SAE, metadata=metadata(), **settings))
    randomise(sae, unit_rows=architecture == "matching_pursuit")
    sae.save_model(tmp_path)
    compare(SAE.load_from_disk(tmp_path), tmp_path)


@pytest.mark.parametrize("architecture", REFUSED)
def test_refused(tmp_path: Path, architecture: str) -> None:
    cls, config = SAE_CLASS_REGISTRY[architecture]
    own: dict[str, Any] = {"n_heads": 4, "bottleneck_factor": 1}
    cls(config(d_in=D_IN, d_sae=D_SAE, metadata=metadata(), **own)).save_model(tmp_path)
    (broken,) = discover(tmp_path)
    assert isinstance(broken, Broken)
    assert f"is a {architecture} autoencoder: " in broken.error


@pytest.mark.parametrize("architecture", TRANSCODERS)
@pytest.mark.parametrize("normalise", ["none", "layer_norm", "constant_norm_rescale"])
def test_transcoders(tmp_path: Path, architecture: str, normalise: str) -> None:
    cls, config = SAE_CLASS_REGISTRY[architecture]
    hooks = {"hook_name": "blocks.1.hook_mlp_in", "hook_name_out": "blocks.1.hook_mlp_out"}
    own = {"d_out": 12, "apply_b_dec_to_input": False, "normalize_activations": normalise}
    sae = cls(config(d_in=D_IN, d_sae=D_SAE, metadata=SAEMetadata(**METADATA | hooks), **own))
    randomise(sae)
    sae.save_model(tmp_path / "theirs")
    theirs, x = SAE.load_from_disk(tmp_path / "theirs"), inputs()
    assert_same(load_sae(tmp_path / "theirs"), x, theirs.encode(x), theirs(x))
    for format_name, source in (("native", "theirs"), ("saelens", "native")):
        to = tmp_path / format_name
        assert main(["convert", str(tmp_path / source), str(to), "--to", format_name]) == 0
    (run,) = discover(tmp_path / "saelens")
    assert isinstance(run, Run)
    assert (run.hook, run.hook_out) == (hooks["hook_name"], hooks["hook_name_out"])
    back = SAE.load_from_disk(run.path)
    assert_same(load_sae(tmp_path / "theirs"), x, back.encode(x), back(x))


@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_heads_are_flattened(tmp_path: Path, architecture: str) -> None:
    cls, config = SAE_CLASS_REGISTRY[architecture]
    sae = cls(
        config(
            d_in=D_IN,
            d_sae=D_SAE,
            metadata=SAEMetadata(hook_name="blocks.0.attn.hook_z"),
            reshape_activations="hook_z",
            **SETTINGS[architecture][0],
        )
    )
    randomise(sae)
    sae.save_model(tmp_path)
    theirs, x = SAE.load_from_disk(tmp_path), inputs()
    by_head = x.reshape(len(x), 4, D_IN // 4)
    assert_same(load_sae(tmp_path), x, theirs.encode(by_head), theirs(by_head).flatten(-2))


TRAINED: dict[str, dict[str, Any]] = {
    "standard": {},
    "gated": {},
    "jumprelu": {},
    "topk": {"k": 5},
    "abstopk": {"k": 5},
    "batchtopk": {"k": 4.5},
    "matryoshka_batchtopk": {"k": 4.5, "matryoshka_widths": [8, D_SAE]},
    "matching_pursuit": {"residual_threshold": 0.5, "max_iterations": 6},
}


@pytest.mark.parametrize("normalise", ["none", "expected_average_only_in", "covariance_whitening"])
@pytest.mark.parametrize("architecture", TRAINED)
def test_training_checkpoints_are_what_training_ends_with(
    tmp_path: Path, architecture: str, normalise: str
) -> None:
    """An unfolded training checkpoint agrees with the inference file that SAELens makes of it."""
    if normalise == "covariance_whitening" and architecture == "matching_pursuit":
        pytest.skip("SAELens does not fold it either")
    cls, config = SAE_TRAINING_CLASS_REGISTRY[architecture]
    settings = TRAINED[architecture] | {"normalize_activations": normalise}
    sae: Any = cls(config(d_in=D_IN, d_sae=D_SAE, metadata=metadata(), **settings))
    stream = iter(lambda: inputs(256), None)
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=1024,
            train_batch_size_samples=256,
            lr_end=3e-4,
            checkpoint_path=str(tmp_path),
        ),
        sae=sae,
        data_provider=stream,
    )
    scaler = trainer.activation_scaler
    if normalise == "expected_average_only_in":
        scaler.estimate_scaling_factor(D_IN, stream, 4)
    elif normalise == "covariance_whitening":
        scaler.estimate_whitening(D_IN, stream, 8)
    randomise(sae, unit_rows=architecture == "matching_pursuit")
    trainer.save_checkpoint("middle")
    if scaler.scaling_factor is not None:
        sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
    if scaler.whitening is not None:
        w = scaler.whitening
        sae.fold_activation_whitening(w.mean, w.matrix, w.inverse_matrix)
    sae.save_inference_model(tmp_path / "end")
    theirs, x = SAE.load_from_disk(tmp_path / "end"), inputs()
    codes = theirs.encode(x)
    for folder in (tmp_path / "middle", tmp_path / "end"):
        assert_same(load_sae(folder), x, codes, theirs(x))
    label = "relu" if architecture == "standard" else architecture
    for run in discover(tmp_path):
        assert isinstance(run, Run)
        assert run.label == label or run.variant == "matryoshka"


@pytest.mark.parametrize(("variant", "options"), OPTIONS)
@pytest.mark.parametrize("normalisation", ["none", "layer_norm", "constant_norm"])
def test_converted_to_saelens(
    tmp_path: Path, variant: str, options: dict[str, Any], normalisation: Any
) -> None:
    sae = random_sae(variant, options, seed=3, normalisation=normalisation)
    if variant != "matching_pursuit":
        sae.W_dec.mul_(0.1)
    config = RunConfig(
        variant="", d_in=1, d_sae=1, model="tiny", hook="blocks.1.hook_resid_post",
        context_length=32, prepend_bos=False, dataset="text", weight_processing="processed",
    )  # fmt: skip
    save_run(tmp_path / "native", sae, config)
    code = main(["convert", str(tmp_path / "native"), str(tmp_path / "to"), "--to", "saelens"])
    if variant in ("tlin", "groupmax", "tanh_relu", "nnls") or not options.get("rectify", True):
        assert code == 2, "SAELens has nothing that computes the same"
        return
    assert code == 0
    theirs, x = SAE.load_from_disk(tmp_path / "to"), inputs(d_in=sae.d_in)
    assert_same(sae, x, theirs.encode(x), theirs(x))
    assert_same(load_sae(tmp_path / "to"), x, theirs.encode(x), theirs(x))
    kept = theirs.cfg.metadata
    assert (kept.model_name, kept.hook_name) == ("tiny", "blocks.1.hook_resid_post")
    assert (kept.context_size, kept.prepend_bos, kept.dataset_path) == (32, False, "text")
    assert kept.model_from_pretrained_kwargs["center_writing_weights"] is True


@pytest.mark.parametrize("architecture", SETTINGS)
def test_there_and_back(tmp_path: Path, architecture: str) -> None:
    """SAELens -> native -> SAELens, read by SAELens itself."""
    cls, config = SAE_CLASS_REGISTRY[architecture]
    settings = SETTINGS[architecture][-1] | {"normalize_activations": "layer_norm"}
    sae = cls(config(d_in=D_IN, d_sae=D_SAE, metadata=metadata(), **settings))
    randomise(sae, unit_rows=architecture == "matching_pursuit")
    sae.save_model(tmp_path / "a")
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b"), "--to", "native"]) == 0
    assert main(["convert", str(tmp_path / "b"), str(tmp_path / "c"), "--to", "saelens"]) == 0
    before, after, x = (
        SAE.load_from_disk(tmp_path / "a"),
        SAE.load_from_disk(tmp_path / "c"),
        inputs(),
    )
    assert (after.encode(x) - before.encode(x)).abs().max() < TOLERANCE
    assert (after(x) - before(x)).abs().max() < TOLERANCE
    for name, value in METADATA.items():
        assert after.cfg.metadata[name] == value
