"""The base of all sparse autoencoders: parameters, encode, decode, and the units of their input.

A variant is a subclass of :class:`SparseAutoencoder` that names its own per-feature tensors and
options, and defines how a pre-activation becomes an activation. No module of this package reads or
writes files.
"""

from collections.abc import Mapping
from copy import copy
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from prolu_eval.activations import Selection, Thresholding
from prolu_eval.errors import UsageError

Normalisation = Literal["none", "layer_norm", "constant_norm"]

_LAYER_NORM_EPSILON = 1e-5


class VariantOptions(BaseModel):
    """A variant's settings besides its tensors. Variants extend it; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def label_suffix(self) -> str:
        """The suffix of the variant's name in tables and figures that shows its options."""
        return ""

    def check(self, d_sae: int) -> None:
        """Raise :class:`ValueError` if the options do not suit the number of features."""


class Normalised(NamedTuple):
    """An activation z in the units in which its autoencoder was trained, and how to undo them.

    ``x = z * scale + shift`` up to the epsilon of the normalisation; ``scale`` and ``shift`` are
    [..., 1]. Multiplying feature activations by ``scale`` gives them in the model's units.
    """

    z: Tensor
    scale: Tensor | None
    shift: Tensor | None

    def restore(self, z_hat: Tensor) -> Tensor:
        """Turn a reconstruction of ``z`` [..., d_in] into one of ``x``, in the model's units."""
        if self.scale is not None:
            z_hat = z_hat * self.scale
        return z_hat if self.shift is None else z_hat + self.shift


class Reconstruction(NamedTuple):
    """One pass through an autoencoder: codes [..., d_sae], x_hat [..., d_out], the code's scale.

    ``scale`` [..., 1] is the factor from the codes' units to the model's; None means one.
    """

    codes: Tensor
    x_hat: Tensor
    scale: Tensor | None


class SparseAutoencoder(nn.Module):
    """x_hat = activate((x - b_dec) W_enc) W_dec + b_dec, with x [..., d_in] in the model's units.

    A transcoder, which has ``d_out``, reads x at one site and predicts y at another:
    y_hat = activate(x W_enc) W_dec + b_dec + x W_skip, where the last term exists only with
    ``skip``. Statements about the x_hat of autoencoders hold for the y_hat of transcoders.

    Parameters: ``W_enc`` [d_in, d_sae], ``W_dec`` [d_sae, d_out], ``b_dec`` [d_out], ``W_skip``
    [d_in, d_out] with ``skip``, and the variant's own parameters, [d_sae] each, which
    :attr:`feature_tensors` names. All start at zero.

    Args:
        d_in: the width of the activations that are encoded.
        d_sae: the dictionary size, which is the number of features.
        options: the variant's settings; None for its defaults.
        d_out: for a transcoder, the width of the activations that it predicts; None for an
            autoencoder, which reconstructs its input.
        skip: whether a transcoder adds a linear function ``x W_skip`` of its input, where x is the
            input before any normalisation.
        apply_b_dec_to_input: whether the decoder bias is subtracted before encoding. Some
            transcoders have a separate input bias; it is folded into the encoder bias when a
            checkpoint is loaded.
        normalisation: a normalisation that is applied to each x before encoding and undone after
            decoding: ``layer_norm`` subtracts the mean over d_in and divides by the unbiased
            standard deviation plus 1e-5, ``constant_norm`` scales x to norm sqrt(d_in). Constant
            factors and whitening are folded into the weights when a checkpoint is loaded, so they
            do not occur here. For a transcoder only the input is normalised; its output is at
            another site, where nothing is undone.

    Raises:
        ValueError: if the options do not suit the number of features, or if they combine a property
            of autoencoders with one of transcoders.
    """

    variant: ClassVar[str]
    feature_tensors: ClassVar[tuple[str, ...]] = ("b_enc",)
    Options: ClassVar[type[VariantOptions]] = VariantOptions

    # Whether x_hat is a sum of rows of W_dec, times the codes, and b_dec. If not, codes are decoded
    # by `decode_normalised`, not by kernels over the active codes.
    decodes_linearly: bool = True

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor
    W_skip: Tensor

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        options: VariantOptions | None = None,
        *,
        d_out: int | None = None,
        skip: bool = False,
        apply_b_dec_to_input: bool = True,
        normalisation: Normalisation = "none",
    ) -> None:
        super().__init__()
        self.d_in, self.d_sae = d_in, d_sae
        self.options = options if options is not None else self.Options()
        self.options.check(d_sae)
        self.transcodes, self.skip = d_out is not None, skip
        self.d_out = d_in if d_out is None else d_out
        self.apply_b_dec_to_input = apply_b_dec_to_input
        self.normalisation: Normalisation = normalisation
        for name, shape in self.shapes().items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def __getattr__(self, name: str) -> Any:
        """Give tied autoencoders, which hold no ``W_enc``, the decoder's transpose for it."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "W_enc":
                return self.W_dec.T
            raise

    @property
    def n_sites(self) -> int:
        """How many sites it reads and reconstructs; if there are several, x has an axis of them."""
        return 1

    @property
    def n_weights(self) -> int:
        """The number of its parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    @classmethod
    def tensor_shapes(
        cls, d_in: int, d_sae: int, options: VariantOptions
    ) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that an autoencoder of this variant has."""
        own = dict.fromkeys(cls.feature_tensors, (d_sae,))
        return {"W_enc": (d_in, d_sae), **own, "W_dec": (d_sae, d_in), "b_dec": (d_in,)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that its checkpoint holds.

        Raises:
            ValueError: if a transcoder would need tied weights or a decoder bias of its input's
                width, or if an autoencoder has a skip connection.
        """
        shapes = self.tensor_shapes(self.d_in, self.d_sae, self.options)
        if not self.transcodes:
            if self.skip:
                raise ValueError("only a transcoder has a skip connection: give its d_out")
            return shapes
        if "W_enc" not in shapes:
            raise ValueError(f"variant {self.variant} has tied weights: it cannot be a transcoder")
        if self.apply_b_dec_to_input and self.d_out != self.d_in:
            raise ValueError(
                f"b_dec of {self.d_out} numbers cannot be subtracted from inputs of {self.d_in}"
            )
        shapes |= {"W_dec": (self.d_sae, self.d_out), "b_dec": (self.d_out,)}
        return shapes | ({"W_skip": (self.d_in, self.d_out)} if self.skip else {})

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """A copy that computes with other tensors instead of its parameters, and shares the rest.

        The tensors may have any shapes that broadcast, such as the [n, ...] tensors of n stacked
        autoencoders. They are plain attributes and hide the parameters, which the copy still has.
        The copy must therefore not be trained, or moved to another device, as a module.
        """
        twin = copy(self)
        vars(twin).update(tensors)
        return twin

    @classmethod
    def label_of(cls, options: VariantOptions) -> str:
        """The variant's name in tables and figures, with the options that distinguish it."""
        return cls.variant + options.label_suffix

    @property
    def label(self) -> str:
        """The name of this autoencoder's variant and options in tables and figures.

        The name of a transcoder says that it is one, because transcoders share a frontier with the
        autoencoders of their output site.
        """
        kind = "" if not self.transcodes else "-skip-transcoder" if self.skip else "-transcoder"
        return self.label_of(self.options) + kind

    def activate(self, m: Tensor) -> Tensor:
        """Feature activations, from pre-activations without the encoder bias. [..., d_sae]"""
        raise NotImplementedError

    def thresholding(self) -> Thresholding | None:
        """The thresholding that :meth:`activate` does outside training; None if it is another."""
        return None

    def selection(self) -> Selection | None:
        """The selection that :meth:`activate` does outside training; None if it does another."""
        return None

    def effective_threshold(self) -> Tensor:
        """The value of m at or below which a feature is off; NaN if there is none. [d_sae]"""
        raise NotImplementedError

    def gradient_threshold(self) -> Tensor:
        """The value of m at or below which both code and training gradients are zero. [d_sae]"""
        return self.effective_threshold()

    def encoder_bias(self) -> Tensor | None:
        """The bias that histograms show: b_enc, or its counterpart in the variant. [d_sae]"""
        return self.b_enc

    def normalise(self, x: Tensor) -> Normalised:
        """Convert x [..., d_in] to the units that the weights expect.

        Raises:
            UsageError: if x is no tensor of activations of this width.
        """
        if not isinstance(x, Tensor):
            reason = f"are of type {type(x).__name__}"
            raise UsageError("activations", reason, "give a tensor, as torch.as_tensor makes one")
        if x.shape[-1:] != (self.d_in,):
            reason = f"are of shape {list(x.shape)}, but the SAE encodes width {self.d_in}"
            raise UsageError("activations", reason, "give activations of the SAE's hook point")
        if not x.is_floating_point():
            raise UsageError("activations", f"are of {x.dtype}", "give floating-point numbers")
        if self.normalisation == "layer_norm":
            shift = x.mean(-1, keepdim=True)
            scale = (x - shift).std(-1, keepdim=True)
            return Normalised((x - shift) / (scale + _LAYER_NORM_EPSILON), scale, shift)
        if self.normalisation == "constant_norm":
            scale = x.norm(dim=-1, keepdim=True) / self.d_in**0.5
            return Normalised(x / scale, scale, None)
        return Normalised(x, None, None)

    def pre_activation(self, z: Tensor) -> Tensor:
        """The pre-activation m = (z - b_dec) W_enc. [..., d_in] -> [..., d_sae]"""
        return (z - self.b_dec if self.apply_b_dec_to_input else z) @ self.W_enc

    def encode(self, x: Tensor) -> Tensor:
        """Feature activations, in the units of the weights. [..., d_in] -> [..., d_sae]

        Raises:
            UsageError: if x is no tensor of activations of this width and precision.
        """
        self._check_precision(x)
        return self.activate(self.pre_activation(self.normalise(x).z))

    def decode_normalised(self, codes: Tensor) -> Tensor:
        """Decode codes into a normalised activation. [..., d_sae] -> [..., d_out]"""
        return codes @ self.W_dec + self.b_dec

    def complete(self, decoded: Tensor, normalised: Normalised, x: Tensor) -> Tensor:
        """Turn the result of :meth:`decode_normalised` into a reconstruction in the model's units.

        Args:
            decoded: the result of :meth:`decode_normalised`. [..., d_out]
            normalised: the result of :meth:`normalise` for x.
            x: the input, in the model's units. [..., d_in]
        """
        if not self.transcodes:
            return normalised.restore(decoded)
        return decoded + x @ self.W_skip if self.skip else decoded

    def skipped(self, x: Tensor) -> Tensor:
        """The output of a transcoder with a skip connection if no feature is on. [..., d_out]"""
        return x @ self.W_skip + self.b_dec

    def decode(self, codes: Tensor, x: Tensor | None = None) -> Tensor:
        """Reconstruction in the model's units. [..., d_sae] -> [..., d_out]

        Raises:
            ValueError: if ``x`` is not given but needed: by an autoencoder that normalises each
                activation by the activation's own statistics, which convert back to the model's
                units, or by a skip connection, which adds a function of ``x``.
            UsageError: if the codes are no tensor with one code for each feature.
        """
        if not isinstance(codes, Tensor) or codes.shape[-1:] != (self.d_sae,):
            given = list(codes.shape) if isinstance(codes, Tensor) else type(codes).__name__
            reason = f"are {given}, not a tensor [..., {self.d_sae}]"
            raise UsageError("codes", reason, "give the result of encode")
        decoded = self.decode_normalised(codes)
        if self.skip if self.transcodes else self.normalisation != "none":
            if x is None:
                reason = f"normalisation {self.normalisation!r} is undone from x"
                if self.skip:
                    reason = "the skip connection adds a function of x"
                raise ValueError(f"{reason}: pass it too")
            return self.complete(decoded, self.normalise(x), x)
        return decoded

    def reconstruct(self, x: Tensor) -> Reconstruction:
        """Codes and reconstruction of x [..., d_in] in one pass."""
        normalised = self.normalise(x)
        codes = self.activate(self.pre_activation(normalised.z))
        x_hat = self.complete(self.decode_normalised(codes), normalised, x)
        return Reconstruction(codes, x_hat, self.code_scale(normalised))

    def code_scale(self, normalised: Normalised) -> Tensor | None:
        """The factor from the codes' units to the model's at the output site. [..., 1]"""
        return None if self.transcodes else normalised.scale

    def forward(self, x: Tensor) -> Tensor:
        """x_hat of x, both in the model's units. [..., d_in] -> [..., d_out]

        Raises:
            UsageError: if x is no tensor of activations of this width and precision.
        """
        self._check_precision(x)
        return self.reconstruct(x).x_hat

    def _check_precision(self, x: Tensor) -> None:
        """Refuse activations of another precision than the weights', unless torch converts it."""
        dtype = next(self.parameters()).dtype
        mixed = isinstance(x, Tensor) and x.dtype != dtype
        if mixed and not torch.is_autocast_enabled():
            reason = f"are of {x.dtype}, but the autoencoder is of {dtype}"
            raise UsageError("activations", reason, "convert one of the two with .to(dtype)")
