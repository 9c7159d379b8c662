"""Users' own autoencoders: any ``torch.nn.Module`` with ``encode`` and ``decode``.

``encode`` maps activations [n, d_in] to codes [n, d_sae], and ``decode`` maps these to activations.
If ``decode`` is affine in the codes, its matrix is computed by calling it, and codes are decoded
sparsely, like those of other autoencoders. Otherwise ``decode`` is called with dense codes.
"""

import copy
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prolu_eval.errors import CheckpointError, UsageError
from prolu_eval.results import FOLDER
from prolu_eval.runs import Run
from prolu_eval.saes.base import SparseAutoencoder, VariantOptions

FORMAT = "module"
_OPTION = "--plugin"
_PROBED = 256  # codes that are decoded at one time to find the decoder's matrix
_AFFINE = 1e-4  # how much a decoder may differ from an affine one, relative to its output


class Wrapped(SparseAutoencoder):
    """A module's own encode and decode. Its codes come from :meth:`pre_activation`."""

    variant = "custom"
    feature_tensors = ()

    def __init__(self, module: nn.Module, d_in: int, d_sae: int) -> None:
        super().__init__(d_in, d_sae, apply_b_dec_to_input=False)
        self.module = module
        self.W_dec.data, self.b_dec.data, self.decodes_linearly = _decoder(module, d_in, d_sae)
        self.W_enc.data = _encoder(module, d_in, d_sae)

    @classmethod
    def tensor_shapes(
        cls, d_in: int, d_sae: int, options: VariantOptions
    ) -> dict[str, tuple[int, ...]]:
        return {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}

    def pre_activation(self, z: Tensor) -> Tensor:
        """The codes of activations. [..., d_in] -> [..., d_sae]"""
        codes: Tensor = self.module.encode(z.reshape(-1, self.d_in))  # type: ignore[operator]
        return codes.reshape(*z.shape[:-1], self.d_sae)

    def activate(self, m: Tensor) -> Tensor:
        return m

    def decode_normalised(self, codes: Tensor) -> Tensor:
        x_hat: Tensor = self.module.decode(codes.reshape(-1, self.d_sae))  # type: ignore[operator]
        return x_hat.reshape(*codes.shape[:-1], self.d_in)

    def effective_threshold(self) -> Tensor:
        return self.W_dec.new_full((self.d_sae,), torch.nan)

    def encoder_bias(self) -> None:
        return None


def runs_of(modules: Mapping[str, nn.Module], source: Path | None = None) -> list[Run]:
    """Runs of modules, by name, whose results are kept in ``evaluation/`` beside ``source``.

    ``source`` is the file that defines the modules; without it, the current folder is used.

    Raises:
        UsageError: if a module has no encode and decode that fit together.
    """
    return [_run(name, module, source) for name, module in modules.items()]


def from_plugin(text: str) -> list[Run]:
    """Runs of the modules that a plugin returns: ``module:function``, or ``file.py:function``.

    The function takes no arguments and returns one module, or several by name. It is the user's own
    code, and is executed.

    Raises:
        UsageError: if the function cannot be found, fails, or returns something else.
    """
    place, _, name = text.rpartition(":")
    if not place or not name:
        raise UsageError(_OPTION, f"{text!r} names no function", "write module:function")
    try:
        imported = _imported(place)
        given = getattr(imported, name)()
    except Exception as error:  # whatever the user's own code raises
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UsageError(_OPTION, f"{text} fails ({reason})", "mend it") from error
    modules = {name: given} if isinstance(given, nn.Module) else given
    if not isinstance(modules, Mapping) or not all(
        isinstance(m, nn.Module) for m in modules.values()
    ):
        reason = f"{text} gives a {type(given).__name__}"
        raise UsageError(_OPTION, reason, "return a torch.nn.Module, or several by name")
    return runs_of({str(n): m for n, m in modules.items()}, Path(str(imported.__file__)))


def _imported(place: str) -> Any:
    if not place.endswith(".py"):
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(place)
    spec = importlib.util.spec_from_file_location(Path(place).stem, place)
    if spec is None or spec.loader is None:
        raise ImportError(f"{place} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(name: str, module: nn.Module, source: Path | None) -> Run:
    if not all(callable(getattr(module, method, None)) for method in ("encode", "decode")):
        raise UsageError(name, f"a {type(module).__name__} lacks encode or decode", "give it both")
    d_in, d_sae = _sizes(name, module)
    folder = Path.cwd() if source is None else source.parent
    kind = type(module)
    return Run(
        name=name,
        path=folder if source is None else source,
        format=FORMAT,
        variant=Wrapped.variant,
        label=kind.__name__,
        d_in=d_in,
        d_sae=d_sae,
        files=() if source is None else (source,),
        results=folder / FOLDER,
        besides=f"module {_digest(module)}",
        provenance={"library": kind.__module__, "class": kind.__qualname__},
        loader=partial(_load, module),
    )


def _load(module: nn.Module, run: Run) -> SparseAutoencoder:
    own = copy.deepcopy(module).eval().requires_grad_(False).cpu()
    with torch.inference_mode(False), torch.no_grad():
        sae = Wrapped(own, run.d_in, run.d_sae).requires_grad_(False).eval()
    if not (sae.W_dec.isfinite().all() and sae.b_dec.isfinite().all()):
        reason = "decodes to NaN or infinity"
        raise CheckpointError(run.name, reason, "use an earlier checkpoint of it")
    return sae


@torch.no_grad()
def _sizes(name: str, module: nn.Module) -> tuple[int, int]:
    """Width and number of features, from the module's ``d_in`` or a weight whose size fits."""
    own = copy.deepcopy(module).eval().cpu()
    said = [getattr(module, a) for a in ("d_in", "activation_dim") if hasattr(module, a)]
    widths = [w for w in said if isinstance(w, int)]
    weights = (*own.parameters(), *own.buffers())
    candidates = widths or sorted({size for weight in weights for size in weight.shape})
    failure = "has no weights to tell it by"
    for width in candidates:
        try:
            codes = own.encode(_zeros(own, 2, width))  # type: ignore[operator]
            if codes.ndim == 2 and own.decode(codes).shape == (2, width):  # type: ignore[operator]
                return width, codes.shape[1]
            failure = "does not give codes [n, d_sae] and activations [n, d_in] again"
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            failure = f"fails ({str(error).partition(chr(10))[0]})"
    raise UsageError(name, f"its encode and decode of no width fit: it {failure}", "give it d_in")


def _zeros(module: nn.Module, *shape: int) -> Tensor:
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    return torch.zeros(shape, dtype=dtype)


def _decoder(module: nn.Module, d_in: int, d_sae: int) -> tuple[Tensor, Tensor, bool]:
    """The decoder's matrix and bias, found by decoding, and whether the decoder is affine."""
    decode: Any = module.decode
    at_zero = decode(_zeros(module, 1, d_sae))[0]
    rows = at_zero.new_empty(d_sae, d_in)
    for start in range(0, d_sae, _PROBED):
        stop = min(start + _PROBED, d_sae)
        codes = _zeros(module, stop - start, d_sae)
        codes[torch.arange(stop - start), torch.arange(start, stop)] = 1
        rows[start:stop] = decode(codes) - at_zero
    generator = torch.Generator().manual_seed(0)
    codes = torch.rand(8, d_sae, generator=generator).to(rows) * 3
    expected, found = codes @ rows + at_zero, decode(codes)
    return rows, at_zero, bool((found - expected).norm() <= _AFFINE * expected.norm())


def _encoder(module: nn.Module, d_in: int, d_sae: int) -> Tensor:
    """The encoder's matrix if the module has it under a usual name, else NaN. [d_in, d_sae]"""
    named = dict(module.named_parameters())
    for name, turned in (("W_enc", False), ("encoder.weight", True)):
        if name in named:
            weight = named[name].detach()
            weight = weight.T if turned else weight
            if tuple(weight.shape) == (d_in, d_sae):
                return weight.clone()
    return _zeros(module, d_in, d_sae) + torch.nan


def _digest(module: nn.Module) -> str:
    """A hash that identifies a module: of its class's source and its tensors."""
    digest = hashlib.sha256(f"{type(module).__module__}.{type(module).__qualname__}".encode())
    try:
        digest.update(inspect.getsource(type(module)).encode())
    except (OSError, TypeError):  # its source is not kept, as in a session
        digest.update(repr(module).encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
