"""SAELens' configurations: nested ones since version 6, and flat ones before."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from prolu_eval.checkpoints.reading import validate
from prolu_eval.runs import WeightProcessing, Width


class Penalty(BaseModel):
    """The sparsity penalty's factor, in training checkpoints or the metadata of inference ones."""

    l1_coefficient: float | None = None
    l0_coefficient: float | None = None

    def coefficient(self, architecture: str) -> float | None:
        """The factor of the penalty that SAELens trains an architecture with."""
        return self.l0_coefficient if architecture == "jumprelu" else self.l1_coefficient


class Metadata(BaseModel):
    """A checkpoint's statements about the model and the data on which it was trained."""

    model_name: str | None = None
    hook_name: str | None = None
    hook_name_out: str | None = None
    hook_head_index: int | None = None
    context_size: int | None = None
    prepend_bos: bool | None = None
    dataset_path: str | None = None
    sae_lens_version: str | None = None
    sae_lens_training_version: str | None = None
    training_architecture: str | None = None
    training_architecture_details: Penalty | None = None
    model_from_pretrained_kwargs: dict[str, Any] | None = None
    seqpos_slice: list[int | None] | None = Field(None, min_length=1, max_length=3)


class Config(Penalty):
    """The entries of a configuration, of any version, that change what is computed."""

    architecture: str = "standard"
    d_in: Width
    d_sae: Width
    d_out: Width | None = None
    apply_b_dec_to_input: bool = True
    normalize_activations: str | bool | None = "none"
    reshape_activations: str | None = None
    k: float | None = Field(None, gt=0, allow_inf_nan=False)
    rescale_acts_by_decoder_norm: bool | None = None
    activation_fn_str: str | None = None
    activation_fn: str | None = None
    activation_fn_kwargs: dict[str, Any] | None = None
    residual_threshold: float = 0.0
    max_iterations: int | None = None
    stop_on_duplicate_support: bool = True
    matryoshka_widths: list[int] | None = None
    metadata: Metadata | None = None


class _Legacy(Metadata):
    hook_point: str | None = None
    hook_point_head_index: int | None = None


def legacy_metadata(document: Mapping[str, Any], path: Path) -> Metadata:
    """The statements of a flat configuration from before version 6, in the terms of 6."""
    old = validate(_Legacy, document, path)
    head = old.hook_head_index if old.hook_head_index is not None else old.hook_point_head_index
    return old.model_copy(
        update={"hook_name": old.hook_name or old.hook_point, "hook_head_index": head}
    )


def problems(metadata: Metadata) -> tuple[str, ...]:
    """Doubts about evaluating such a checkpoint on whole texts."""
    seen = slice(*(metadata.seqpos_slice or [None]))
    if seen.start or seen.stop or seen.step not in (None, 1):
        return (f"it was trained only on positions {metadata.seqpos_slice} of each text",)
    return ()


def weight_processing(metadata: Metadata) -> WeightProcessing:
    """Whether SAELens processed the model's weights so that activations at the hook differ.

    By default SAELens asks TransformerLens for no processing; the configuration may ask for some.
    """
    asked = {name for name, on in (metadata.model_from_pretrained_kwargs or {}).items() if on}
    hooks = [name or "" for name in (metadata.hook_name, metadata.hook_name_out or None)]
    felt = {"center_writing_weights"}
    if hooks[0].endswith(("hook_z", "hook_v")):
        felt = {"fold_value_biases"}
    elif hooks[0].endswith("hook_normalized") and not hooks[1]:
        felt = {"fold_ln"}
    return "processed" if asked & felt else "none"
