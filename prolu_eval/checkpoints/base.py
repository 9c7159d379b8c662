"""The interface of checkpoint formats, and building an autoencoder from a checkpoint's content."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prolu_eval.checkpoints.reading import TRUNCATED, validate
from prolu_eval.errors import CheckpointError
from prolu_eval.runs import MAX_WIDTH, Run
from prolu_eval.saes import OF_SEVERAL_SITES, VARIANTS, Normalisation, SparseAutoencoder

Fold = Callable[[dict[str, Tensor]], dict[str, Tensor]]

LOST_SCALE = "expects activations normalised by one factor, and their factor is not in the folder"
GIVE_SCALE = "keep the factor beside it"
ESTIMATE_SCALE = "estimate it from the model's activations with --estimate-scale"
SCALE_PROBLEM = f"it {LOST_SCALE}: {ESTIMATE_SCALE}"


@dataclass(frozen=True)
class Format:
    """A checkpoint format.

    ``find`` returns the checkpoints in a folder itself (not below it), by the names of its files;
    each is the path of the folder or of a file in it. ``files`` returns the files from which a
    checkpoint is read, with the weights last. ``describe`` reads all that can be known without the
    weights. ``load`` builds the autoencoder. The latter two raise :class:`CheckpointError`.
    """

    name: str
    find: Callable[[Path, frozenset[str]], Iterable[Path]]
    files: Callable[[Path], tuple[Path, ...]]
    describe: Callable[[Path], list[Run]]
    load: Callable[[Run], SparseAutoencoder]


@dataclass(frozen=True)
class Content:
    """The content of another library's checkpoint, in the terms of this package.

    Attributes:
        variant: the name of the variant that computes the same as the library.
        d_in: the width of the activations.
        d_sae: the number of features.
        tensors: a function that reads the variant's tensors with the values that the file has.
        fold: a function that computes the final weights from these tensors; it is called after
            their names and shapes were checked.
        options: the variant's settings.
        d_out: for a transcoder, the width of the activations at its output site.
        skip: whether it has a skip connection, ``W_skip`` [d_in, d_out].
        apply_b_dec_to_input: whether the decoder bias is subtracted before encoding.
        normalisation: the normalisation of each activation at run time.
        problems: sentences that say what is doubtful about the checkpoint.
        about: fields of :class:`~prolu_eval.runs.Run` that are known from the files.
        rescaled: if training multiplied activations by a factor that the files do not contain (for
            a crosscoder, by one factor per site), a function of the factor that returns the
            content; else None.
    """

    variant: str
    d_in: int
    d_sae: int
    tensors: Callable[[], Mapping[str, Tensor]]
    fold: Fold = dict
    options: Mapping[str, Any] = field(default_factory=dict)
    apply_b_dec_to_input: bool = True
    normalisation: Normalisation = "none"
    problems: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    rescaled: "Callable[..., Content] | None" = None
    d_out: int | None = None
    skip: bool = False

    def build(self, path: Path) -> SparseAutoencoder:
        """The autoencoder without its weights, by :func:`build`."""
        return build(
            self.variant,
            self.d_in,
            self.d_sae,
            self.options,
            path,
            d_out=self.d_out,
            skip=self.skip,
            apply_b_dec_to_input=self.apply_b_dec_to_input,
            normalisation=self.normalisation,
        )


def build(
    variant: str,
    d_in: int,
    d_sae: int,
    options: Mapping[str, Any],
    path: Path,
    *,
    d_out: int | None = None,
    skip: bool = False,
    apply_b_dec_to_input: bool,
    normalisation: Normalisation,
) -> SparseAutoencoder:
    """An autoencoder without its weights, which :func:`fill` adds.

    Raises:
        CheckpointError: naming ``path``, if the variant or an option is unknown, if an option or a
            size is out of range, or if a transcoder cannot have one of the settings.
    """
    cls = (VARIANTS | OF_SEVERAL_SITES).get(variant)
    if cls is None:
        known = ", ".join(sorted(VARIANTS))
        raise CheckpointError(path, f"unknown variant {variant!r}", f"the variants are {known}")
    if max(d_in, d_sae, d_out or 0) > MAX_WIDTH:
        claimed = f"{d_in}" if d_out is None else f"{d_in} and {d_out}"
        raise CheckpointError(path, f"claims {d_sae} features of {claimed} numbers", TRUNCATED)
    valid = validate(cls.Options, dict(options), path, "options")
    try:
        with torch.device("meta"):
            return cls(
                d_in,
                d_sae,
                valid,
                d_out=d_out,
                skip=skip,
                apply_b_dec_to_input=apply_b_dec_to_input,
                normalisation=normalisation,
            )
    except ValueError as error:
        raise CheckpointError(path, str(error), "restore the file that training wrote") from None


def foreign(
    name: str,
    library: str,
    find: Callable[[Path, frozenset[str]], Iterable[Path]],
    interpret: Callable[[Path], Mapping[str | None, Content]],
    files: Callable[[Path], tuple[Path, ...]],
) -> Format:
    """A format of another library, from a function that interprets its files.

    Args:
        name: the format's name.
        library: the library's name, for provenance.
        find: as in :class:`Format`.
        interpret: a function that returns the content of each part of a checkpoint, by the part's
            name; most checkpoints have one part, whose name is None.
        files: as in :class:`Format`.
    """

    def describe(place: Path) -> list[Run]:
        contents = interpret(place).items()
        return [_run(name, library, place, files(place), part, c) for part, c in contents]

    def load(run: Run) -> SparseAutoencoder:
        path = files(run.path)[-1]
        content = interpret(run.path).get(run.part)
        if content is None:
            raise CheckpointError(path, f"has no part {run.part!r}", "search the folder again")
        content = _in_units_of(run, content, path)
        return fill(content.build(path), content.tensors(), path, content.fold)

    return Format(name, find, files, describe, load)


def _in_units_of(run: Run, content: Content, path: Path) -> Content:
    """The content in the units that the run specifies, such as by an estimated factor.

    Raises:
        CheckpointError: if neither the files nor the run give the factor on activations.
    """
    if run.normalisation is not None:
        return replace(content, normalisation=run.normalisation)
    if content.rescaled is None:
        return content
    if run.activation_scale is None:
        raise CheckpointError(path, LOST_SCALE, f"{GIVE_SCALE}, or {ESTIMATE_SCALE}")
    return content.rescaled(*run.activation_scale)


def _run(
    name: str,
    library: str,
    place: Path,
    files: tuple[Path, ...],
    part: str | None,
    content: Content,
) -> Run:
    sae = content.build(files[-1])
    about = dict(content.about)
    provenance = {"library": library, **about.pop("provenance", {})}
    return Run(
        **{
            "name": place.name,
            "path": place,
            "format": name,
            "variant": content.variant,
            "label": sae.label,
            "d_in": content.d_in,
            "d_sae": content.d_sae,
            "d_out": content.d_out,
            "n_weights": sae.n_weights,
            "files": files,
            "part": part,
            "problems": content.problems + (() if content.rescaled is None else (SCALE_PROBLEM,)),
            "needs_scale": content.rescaled is not None,
            "options": sae.options.model_dump(mode="json"),
            "provenance": provenance,
            **about,
        }
    )


def size(tensors: Mapping[str, Any], name: str, path: Path) -> tuple[int, int]:
    """The two sizes of a weight matrix.

    Raises:
        CheckpointError: if the tensor is missing, empty, or no floating-point matrix; if it is a
            stack of matrices, the message says that the checkpoint is a crosscoder.
    """
    tensor = tensors.get(name)
    if not isinstance(tensor, Tensor):
        raise CheckpointError(path, f"lacks tensor {name}", "restore the file that training wrote")
    if tensor.ndim == 3:
        raise CheckpointError(
            path,
            f"is a crosscoder: {name} holds {tensor.shape[0]} layers, which share their codes",
            "evaluate autoencoders of one hook",
        )
    if tensor.ndim != 2 or not tensor.is_floating_point() or 0 in tensor.shape:
        raise CheckpointError(
            path,
            f"{name} is no matrix of weights ({list(tensor.shape)}, {tensor.dtype})",
            "restore the file that training wrote",
        )
    return tensor.shape[0], tensor.shape[1]


def fill(
    sae: SparseAutoencoder, tensors: Mapping[str, Tensor], path: Path, fold: Fold = dict
) -> SparseAutoencoder:
    """Give an autoencoder its weights, and prepare it for evaluation.

    Weights are float32, or the precision of a matrix if that is higher.

    Raises:
        CheckpointError: naming the first tensor that is missing, unexpected, of the wrong shape,
            or not finite.
    """
    expected = sae.shapes()
    holds = f"a {sae.variant} run holds {', '.join(expected)}"
    if missing := expected.keys() - tensors.keys():
        raise CheckpointError(path, f"lacks tensor {min(missing)}", holds)
    if unexpected := tensors.keys() - expected.keys():
        raise CheckpointError(path, f"has an unexpected tensor {min(unexpected)}", holds)
    for name, shape in expected.items():
        _check_weights(name, tensors[name], shape, path)
    matrices = [tensors[name] for name, shape in expected.items() if len(shape) == 2]
    wide = any(matrix.dtype == torch.float64 for matrix in matrices)
    dtype = torch.float64 if wide else torch.float32
    folded = fold({name: tensor.detach().to(dtype) for name, tensor in tensors.items()})
    for name in list(folded):
        tensor = folded.pop(name)  # so that memory holds it once
        if not torch.isfinite(torch.stack(tensor.aminmax())).all():
            raise CheckpointError(
                path, f"{name} has NaN or infinite weights", "use an earlier checkpoint of this run"
            )
        setattr(sae, name, torch.nn.Parameter(tensor.contiguous(), requires_grad=False))
    return sae.eval()


def _check_weights(name: str, tensor: Tensor, shape: tuple[int, ...], path: Path) -> None:
    if tuple(tensor.shape) != shape:
        raise CheckpointError(
            path,
            f"{name} has shape {list(tensor.shape)}, not {list(shape)}",
            "make the config's d_in and d_sae agree with the weights",
        )
    if not tensor.is_floating_point():
        raise CheckpointError(
            path, f"{name} is {tensor.dtype}, not floating point", "save it as floating point"
        )
