"""Passes of a language model up to, through, and from a hook point."""

import contextlib
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prolu_eval.errors import ModelError
from prolu_eval.lm.hooks import forwarding, hooked, into, removing
from prolu_eval.lm.loading import load_network, official_name
from prolu_eval.lm.read_out import find_read_out
from prolu_eval.lm.sites import Port, Site, hook_sites
from prolu_eval.lm.unpadded import never_packed, never_padded


class Pass(NamedTuple):
    """A clean pass: what follows from it, the site's activation, and what to resume from.

    ``hidden`` [B, T, d_model] are the final hidden states, which :meth:`LanguageModel.logits` reads
    out; ``activation`` [B, T, d] is the site's; ``entry`` [B, T, d_model] is the residual stream
    that enters the site's block.
    """

    hidden: Tensor
    activation: Tensor
    entry: Tensor


class _Captured(Exception):  # noqa: N818 - no error: it ends a pass that has reached its hook
    pass


class LanguageModel:
    """A causal language model with named hook points. Build one with :meth:`load`."""

    def __init__(
        self,
        name: str,
        network: Any,
        bridge: Any,
        modules: dict[int, str],
        fingerprint: str,
        *,
        processed: bool = False,
    ) -> None:
        self.name, self.fingerprint = name, fingerprint
        self.tokenizer = bridge.tokenizer
        self._network = network
        self._network.eval().requires_grad_(False)
        self._sites = hook_sites(bridge, modules, processed=processed)
        self._blocks = [modules[id(block.original_component)] for block in bridge.blocks]
        self._block_returns_tuple: dict[int, bool] = {}
        self._widths: dict[str, int] = {}
        config = self._network.config.get_text_config()
        self.d_model: int = config.hidden_size
        self.vocab_size: int = config.vocab_size
        self.context_length: int | None = getattr(config, "max_position_embeddings", None)
        self.device = next(network.parameters()).device
        self.dtype = next(network.parameters()).dtype
        self._trunk = self._network.base_model
        never_padded(self._trunk)
        self._read_out = find_read_out(self._network, self._trunk, self.vocab_size)

    @classmethod
    def load(
        cls,
        name: str,
        *,
        device: str | None = None,
        device_map: str | None = None,
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        processed: bool = False,
    ) -> "LanguageModel":
        """Load a model by name.

        Args:
            name: ``embedded`` (the package's own), a local Hugging Face folder, a hub name, or an
                alias of one in TransformerLens.
            device: a torch device; None for CUDA where there is one, else the CPU.
            device_map: how to spread a model over several devices (``auto`` or ``balanced``, needs
                accelerate), in the place of ``device``.
            dtype: of the weights and the passes.
            revision: a hub revision.
            processed: whether hook points give the activations of the weights as TransformerLens
                processes them by default (centred writing weights, folded value biases).

        Raises:
            ModelError: if the name is neither a model folder nor a hub model that can be reached,
                or TransformerLens does not know its architecture.
        """
        name = official_name(name)
        network, bridge, modules, fingerprint = load_network(
            name, device, device_map, dtype, revision
        )
        return cls(name, network, bridge, modules, fingerprint, processed=processed)

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
        if hook not in self._widths:
            one = torch.zeros(1, 1, dtype=torch.long)
            self._widths[hook] = self.activations(one, hook).shape[-1]
        return self._widths[hook]

    @torch.inference_mode()
    def activations(self, tokens: Tensor, hook: str) -> Tensor:
        """Activations at a hook point; the pass ends there. [B, T] int64 -> [B, T, d]."""
        found: list[Tensor] = []
        site = self.site(hook)

        def keep(value: Tensor) -> None:
            found.append(value)
            raise _Captured

        with self._hooked(site.port, keep), contextlib.suppress(_Captured):
            self._run(tokens)
        return site.read(found[0])

    @torch.inference_mode()
    def clean(self, tokens: Tensor, hook: str) -> Pass:
        """A pass with nothing replaced. [B, T] int64"""
        site = self.site(hook)
        found: dict[str, Tensor] = {}
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._hooked(site.port, into(found, "activation")))
            if not site.residual:
                stack.enter_context(self._hooked(self._entry(site.block), into(found, "entry")))
            if not self._block_returns_tuple:
                for index, path in enumerate(self._blocks):
                    block = self._network.get_submodule(path)
                    note = block.register_forward_hook(self._note_kind(index))
                    stack.enter_context(removing(note))
            hidden = self._run(tokens)
        activation = site.read(found["activation"])
        return Pass(hidden, activation, found.get("entry", activation))

    @torch.inference_mode()
    def resume(self, tokens: Tensor, hook: str, clean: Pass, replacement: Tensor) -> Tensor:
        """Hidden states with a hook point's activation replaced; only what follows it is run.

        Args:
            tokens: the token ids of the clean pass. [B, T] int64
            hook: the hook point of the clean pass.
            clean: what :meth:`clean` returned for these tokens.
            replacement: what to put in the activation's place. [B, T, d]

        Returns:
            Final hidden states, equal to those of :meth:`splice` up to rounding. [B, T, d_model]
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

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits of final hidden states. [..., d_model] -> [..., vocab]"""
        return hidden if self._read_out is None else self._read_out(hidden)

    def _run(self, tokens: Tensor) -> Tensor:
        """Final hidden states; logits in their place if the head cannot be told from the trunk."""
        tokens = tokens.to(self.device, non_blocking=True)
        with never_packed():
            if self._read_out is None:
                logits: Tensor = self._network(input_ids=tokens, use_cache=False).logits
                return logits
            output = self._trunk(input_ids=tokens, use_cache=False, return_dict=True)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _entry(self, block: int) -> Port:
        """Where the residual stream that enters a block can be had."""
        if block < self.n_blocks:
            return Port(self._blocks[block], "input")
        return Port(self._blocks[-1], "output")

    def _replacing(
        self, site: Site, replacement: Tensor, activation: Tensor
    ) -> contextlib.AbstractContextManager[None]:
        if site.added_at is None:
            written = site.written(replacement)
            return self._hooked(site.port, lambda value: written.to(value))
        difference = replacement - activation
        return self._hooked(site.added_at, lambda value: value + difference.to(value))

    def _note_kind(self, index: int) -> Any:
        def note(module: nn.Module, arguments: Any, output: Any) -> None:
            self._block_returns_tuple[index] = isinstance(output, tuple)

        return note

    def _passing_through(
        self, index: int, residual: Tensor
    ) -> contextlib.AbstractContextManager[None]:
        """Make a block return ``residual`` at no cost, in the shape its own output has."""
        block = self._network.get_submodule(self._blocks[index])
        output = (residual,) if self._block_returns_tuple[index] else residual
        return forwarding(block, lambda *_, **__: output)

    def _hooked(self, port: Port, function: Any) -> contextlib.AbstractContextManager[None]:
        return hooked(self._network.get_submodule(port.module), port.side, function)
