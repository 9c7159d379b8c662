"""The units in which SAELens trains: normalisation at run time, and factors to fold."""

from pathlib import Path

from pydantic import BaseModel, Field

from prolu_eval.checkpoints.base import Fold
from prolu_eval.checkpoints.folding import Whitening, fold_scale, fold_whitening
from prolu_eval.checkpoints.reading import read_json, read_safetensors, validate
from prolu_eval.errors import CheckpointError
from prolu_eval.saes import Normalisation

SCALER_FILE, WHITENING_FILE = "activation_scaler.json", "activation_whitening.safetensors"

AVERAGE = "expected_average_only_in"
RUN_TIME: dict[str, Normalisation] = {
    "none": "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "constant_norm",
}


class _Scaler(BaseModel):
    scaling_factor: float | None = Field(None, gt=0, allow_inf_nan=False)
    has_whitening: bool = False


def normalisation(value: str | bool | None) -> str:
    """The normalisation that ``normalize_activations`` names, in the terms of any version."""
    if isinstance(value, bool):
        return AVERAGE if value else "none"
    return value or "none"


def training_scale(kind: str, path: Path) -> float | None:
    """The factor on activations, from the file beside a checkpoint written during training.

    Args:
        kind: the kind of normalisation.
        path: the path of the checkpoint's configuration.

    Returns:
        The factor; 1 if training used none, None if the file is missing.

    Raises:
        CheckpointError: if the file that holds it is damaged.
    """
    return 1.0 if kind != AVERAGE else _scaler(path.parent).scaling_factor


def folding(
    kind: str,
    scale: float,
    path: Path,
    d_in: int,
    architecture: str,
    *,
    subtracts: bool,
    keep_rows: bool,
) -> Fold:
    """A function that turns a checkpoint's weights into weights for the model's units.

    Args:
        kind: the kind of normalisation.
        scale: the factor on activations.
        path: the path of the checkpoint's configuration.
        d_in: the width of the activations.
        architecture: the architecture, in SAELens' terms.
        subtracts: whether the decoder bias is subtracted before encoding.
        keep_rows: whether the decoder's rows have unit norm and must keep it.

    Raises:
        CheckpointError: if the factor or whitening is missing, or cannot be folded.
    """
    if kind in RUN_TIME:
        return dict
    if kind == AVERAGE:
        return lambda weights: fold_scale(weights, scale, keep_rows=keep_rows)
    if kind != "covariance_whitening" or not _scaler(path.parent).has_whitening:
        raise _not_there(kind, path)
    if architecture == "matching_pursuit":
        raise CheckpointError(
            path,
            "uses matching pursuit in whitened units, which cannot be folded",
            "train it without whitening",
        )
    whitening = _whitening(path.parent / WHITENING_FILE, d_in)
    bias = "b_gate" if architecture == "gated" else "b_enc"
    return lambda weights: fold_whitening(weights, whitening, bias, subtracts)


def _not_there(kind: str, path: Path) -> CheckpointError:
    return CheckpointError(
        path,
        f"expects activations normalised by {kind!r}, but their factor is not in the folder",
        f"keep {SCALER_FILE} beside it, or save the final, folded weights",
    )


def _scaler(folder: Path) -> _Scaler:
    path = folder / SCALER_FILE
    return validate(_Scaler, read_json(path), path) if path.is_file() else _Scaler()


def _whitening(path: Path, d_in: int) -> Whitening:
    tensors = read_safetensors(path)
    shapes = {"mean": (d_in,), "matrix": (d_in, d_in), "inverse_matrix": (d_in, d_in)}
    for name, shape in shapes.items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            raise CheckpointError(path, f"lacks {name} {list(shape)}", "restore the file")
    return Whitening(*(tensors[name].double() for name in shapes))
