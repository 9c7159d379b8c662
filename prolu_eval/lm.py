"""Language models: capture a hook point, splice a replacement in, resume from there.

TransformerLens finds the architecture and names its hook points: its bridge translates a hook name
into the Hugging Face module that computes it. The passes themselves run the Hugging Face model as
it is, with the attention it chooses (SDPA wherever the architecture allows), and a resumed pass
turns the blocks before the hook into pass-throughs (TransformerLens's own ``start_at_layer`` still
runs them, and its bridge forces eager attention).
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from prolu_eval.embedded import MODEL_PATH
from prolu_eval.errors import ModelError
from prolu_eval.runs import EMBEDDED_MODEL

Side = Literal["input", "output"]


class Port(NamedTuple):
    """A module of the network, by path, and the side of it that is meant."""

    module: str
    side: Side


@dataclass(frozen=True)
class Site:
    """Where a hook point lies, and how it is spliced.

    ``block`` is the first block that a replacement at the site can change; it is the number of
    blocks if only what follows them can change. ``residual`` says that the site is the stream that
    enters that block, so that resuming needs nothing but the replacement. ``added_at`` is set where
    no module's input or output can be replaced in the site's stead: the replacement's difference
    from the clean activation is then added to that module's output.
    """

    port: Port
    block: int
    residual: bool = False
    added_at: Port | None = None


class Pass(NamedTuple):
    """A clean pass: logits [B, T, vocab], the site's activation [B, T, d] and what to resume from.

    ``entry`` [B, T, d_model] is the residual stream that enters the site's block.
    """

    logits: Tensor
    activation: Tensor
    entry: Tensor


class _Captured(Exception):  # noqa: N818 - no error: it ends a pass that has reached its hook
    pass


class LanguageModel:
    """A causal language model with named hook points. Build one with :meth:`load`."""

    def __init__(
        self, name: str, network: nn.Module, bridge: Any, modules: dict[int, str], fingerprint: str
    ) -> None:
        self.name, self.fingerprint = name, fingerprint
        self.tokenizer = bridge.tokenizer
        self._network = network.eval().requires_grad_(False)
        self._sites = _hook_sites(bridge, modules)
        self._blocks = [modules[id(block.original_component)] for block in bridge.blocks]
        self._block_returns_tuple: dict[int, bool] = {}
        config: Any = network.config
        config = config.get_text_config()
        self.d_model: int = config.hidden_size
        self.vocab_size: int = config.vocab_size
        self.context_length: int | None = getattr(config, "max_position_embeddings", None)
        self.device = next(network.parameters()).device
        self.dtype = next(network.parameters()).dtype

    @classmethod
    def load(
        cls,
        name: str,
        *,
        device: str | None = None,
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
    ) -> "LanguageModel":
        """Load a model by name.

        Args:
            name: ``embedded`` (the package's own), a local Hugging Face folder, or a hub name.
            device: a torch device; None for CUDA where there is one, else the CPU.
            dtype: of the weights and the passes.
            revision: a hub revision.

        Raises:
            ModelError: if the name is neither a model folder nor a hub model that can be reached,
                or TransformerLens does not know its architecture.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        place = str(MODEL_PATH) if name == EMBEDDED_MODEL else name
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        local = Path(place).exists()
        if local and not (Path(place) / "config.json").exists():
            raise ModelError(
                name, "is no model folder (no config.json)", "name a Hugging Face model folder"
            )
        try:
            with _quiet():
                network = AutoModelForCausalLM.from_pretrained(
                    place, revision=revision, dtype=dtype
                ).to(device)
                tokenizer = AutoTokenizer.from_pretrained(place, revision=revision)
                bridge, modules = _bridge(place, network, tokenizer)
        except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            what = "folder cannot be loaded" if local else "is no local folder, and the hub failed"
            raise ModelError(
                name, f"{what} ({reason})", "check the name, the files and the architecture"
            ) from None
        fingerprint = _fingerprint(Path(place) if local else None, name, revision, network)
        return cls(name, network, bridge, modules, fingerprint)

    @property
    def n_blocks(self) -> int:
        """Number of transformer blocks."""
        return len(self._blocks)

    @property
    def special_ids(self) -> frozenset[int]:
        """Token ids that are no text: BOS, EOS, PAD and the tokenizer's other special tokens."""
        if self.tokenizer is None:
            return frozenset()
        return frozenset(self.tokenizer.all_special_ids)

    def site(self, hook: str) -> Site:
        """Where a hook point lies.

        Raises:
            ModelError: if the model has no such hook point, or none that can be spliced.
        """
        if hook not in self._sites:
            usual = f"blocks.0.hook_resid_pre to blocks.{self.n_blocks - 1}.hook_resid_post"
            raise ModelError(
                self.name, f"has no hook point {hook!r} that can be spliced", f"it has {usual}"
            )
        return self._sites[hook]

    def width(self, hook: str) -> int:
        """Width of the activations at a hook point."""
        return self.activations(torch.zeros(1, 1, dtype=torch.long), hook).shape[-1]

    @torch.inference_mode()
    def activations(self, tokens: Tensor, hook: str) -> Tensor:
        """Activations at a hook point; the pass ends there. [B, T] int64 -> [B, T, d]."""
        found: list[Tensor] = []

        def keep(value: Tensor) -> None:
            found.append(value)
            raise _Captured

        with self._hooked(self.site(hook).port, keep), contextlib.suppress(_Captured):
            self._run(tokens)
        return found[0]

    @torch.inference_mode()
    def clean(self, tokens: Tensor, hook: str) -> Pass:
        """A pass with nothing replaced. [B, T] int64"""
        site = self.site(hook)
        found: dict[str, Tensor] = {}
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._hooked(site.port, _into(found, "activation")))
            if not site.residual:
                stack.enter_context(self._hooked(self._entry(site.block), _into(found, "entry")))
            if not self._block_returns_tuple:
                for index, path in enumerate(self._blocks):
                    block = self._network.get_submodule(path)
                    note = block.register_forward_hook(self._note_kind(index))
                    stack.enter_context(_removing(note))
            logits = self._run(tokens)
        return Pass(logits, found["activation"], found.get("entry", found["activation"]))

    @torch.inference_mode()
    def resume(self, tokens: Tensor, hook: str, clean: Pass, replacement: Tensor) -> Tensor:
        """Logits with a hook point's activation replaced; only what follows the hook is run.

        Args:
            tokens: the token ids of the clean pass. [B, T] int64
            hook: the hook point of the clean pass.
            clean: what :meth:`clean` returned for these tokens.
            replacement: what to put in the activation's place. [B, T, d]

        Returns:
            Next-token logits, equal to those of :meth:`splice` up to rounding. [B, T, vocab]
        """
        site = self.site(hook)
        residual = replacement if site.residual else clean.entry
        with contextlib.ExitStack() as stack:
            for index in range(site.block):
                stack.enter_context(self._passing_through(index, residual))
            if site.block == 0:
                stack.enter_context(self._hooked(self._entry(0), lambda _: residual))
            if not site.residual:
                stack.enter_context(self._replacing(site, replacement, clean.activation))
            return self._run(tokens)

    @torch.inference_mode()
    def splice(self, tokens: Tensor, hook: str, clean: Pass, replacement: Tensor) -> Tensor:
        """As :meth:`resume`, by a full pass: slower; resumed passes are checked against it."""
        with self._replacing(self.site(hook), replacement, clean.activation):
            return self._run(tokens)

    def _run(self, tokens: Tensor) -> Tensor:
        output = self._network(input_ids=tokens.to(self.device), use_cache=False, return_dict=True)
        logits: Tensor = output.logits
        return logits

    def _entry(self, block: int) -> Port:
        """Where the residual stream that enters a block can be had."""
        if block < self.n_blocks:
            return Port(self._blocks[block], "input")
        return Port(self._blocks[-1], "output")

    def _replacing(
        self, site: Site, replacement: Tensor, activation: Tensor
    ) -> contextlib.AbstractContextManager[None]:
        if site.added_at is None:
            return self._hooked(site.port, lambda _: replacement)
        difference = replacement - activation
        return self._hooked(site.added_at, lambda value: value + difference)

    def _note_kind(self, index: int) -> Any:
        def note(module: nn.Module, arguments: Any, output: Any) -> None:
            self._block_returns_tuple[index] = isinstance(output, tuple)

        return note

    @contextlib.contextmanager
    def _passing_through(self, index: int, residual: Tensor) -> Iterator[None]:
        """Make a block return ``residual`` at no cost, in the shape its own output has."""
        block = self._network.get_submodule(self._blocks[index])
        output = (residual,) if self._block_returns_tuple[index] else residual
        block.forward = lambda *_, **__: output
        try:
            yield
        finally:
            del block.forward

    @contextlib.contextmanager
    def _hooked(self, port: Port, function: Any) -> Iterator[None]:
        """Call ``function`` on what passes a port; what it returns, if any, takes its place."""
        module = self._network.get_submodule(port.module)

        def on_output(_: nn.Module, arguments: Any, output: Any) -> Any:
            value = function(output[0] if isinstance(output, tuple) else output)
            if value is not None and isinstance(output, tuple):
                return (value, *output[1:])
            return value

        def on_input(_: nn.Module, arguments: Any, keywords: dict[str, Any]) -> Any:
            if arguments:
                value = function(arguments[0])
                return None if value is None else ((value, *arguments[1:]), keywords)
            name = "hidden_states" if "hidden_states" in keywords else next(iter(keywords))
            value = function(keywords[name])
            return None if value is None else (arguments, {**keywords, name: value})

        handle = (
            module.register_forward_hook(on_output)
            if port.side == "output"
            else module.register_forward_pre_hook(on_input, with_kwargs=True)
        )
        with _removing(handle):
            yield


@contextlib.contextmanager
def _removing(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _into(found: dict[str, Tensor], key: str) -> Any:
    def keep(value: Tensor) -> None:
        found[key] = value

    return keep


def _bridge(place: str, network: nn.Module, tokenizer: Any) -> tuple[Any, dict[int, str]]:
    """TransformerLens's bridge over a second module tree, and the path of each HF module by id.

    A bridge rebuilds the tree that it is given, so it gets one of its own, whose parameters are the
    network's (shared, not copied); paths are the same in both.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        twin = AutoModelForCausalLM.from_config(network.config)
    twin.load_state_dict(network.state_dict(), assign=True)
    modules = {id(module): path for path, module in twin.named_modules()}
    bridge = TransformerBridge.boot_transformers(
        place, hf_model=twin, tokenizer=tokenizer, device=str(next(network.parameters()).device)
    )
    return bridge, modules


def _hook_sites(bridge: Any, modules: dict[int, str]) -> dict[str, Site]:
    """Every hook name of the bridge's blocks, aliases too, that can be spliced faithfully."""
    ports: dict[int, Port] = {}
    for component in bridge.modules():
        path = modules.get(id(getattr(component, "original_component", None)))
        if path is not None:
            ports[id(component.hook_in)] = Port(path, "input")
            ports[id(component.hook_out)] = Port(path, "output")
    sites = {}
    for hook, point in bridge.hook_dict.items():
        port = ports.get(id(point))
        if port is None or not hook.startswith("blocks."):
            continue
        index, name = hook.removeprefix("blocks.").split(".", 1)
        block = int(index)
        if name == "hook_resid_mid":
            # TransformerLens's bridge has the name on the MLP norm's input, past the skip.
            attention = ports[id(bridge.hook_dict[f"blocks.{index}.hook_attn_out"])]
            sites[hook] = Site(port, block, added_at=attention)
        elif port.module == modules[id(bridge.blocks[block].original_component)]:
            sites[hook] = Site(port, block + (port.side == "output"), residual=True)
        else:
            sites[hook] = Site(port, block)
    return sites


def _fingerprint(folder: Path | None, name: str, revision: str | None, network: nn.Module) -> str:
    """What tells this model from any other: the bytes of its files, or its commit on the hub."""
    digest = hashlib.sha256()
    if folder is None:
        commit = getattr(network.config, "_commit_hash", None)
        digest.update(f"{name}@{commit or revision}".encode())
        return digest.hexdigest()[:32]
    for path in sorted(
        [folder / "config.json", *folder.glob("*.safetensors"), *folder.glob("*.bin")]
    ):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep other libraries' loading bars off the terminal."""
    from transformers.utils import logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
