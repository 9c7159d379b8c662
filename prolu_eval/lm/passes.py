"""Passes of a network that end at a site, run through it, or resume from it."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prolu_eval.lm.hooks import forwarding, hooked, removing
from prolu_eval.lm.sites import Port, Site
from prolu_eval.lm.unpadded import never_packed


class Pass(NamedTuple):
    """The result of a clean pass, from which another pass can resume.

    ``hidden`` [B, T, d_model] are the final hidden states, from which
    :meth:`prolu_eval.lm.LanguageModel.logits` computes logits; ``activation`` [B, T, d] is the
    site's activation; ``entry`` [B, T, d_model] is the residual stream that enters the site's
    block; ``inputs`` [B, T, d] are the activations at the other sites that the caller asked for.
    """

    hidden: Tensor
    activation: Tensor
    entry: Tensor
    inputs: Mapping[str, Tensor] = {}


class _Captured(Exception):  # noqa: N818 - no error: it ends a pass that has reached its hook
    pass


class Passes:
    """The passes of a network over token ids [B, T], on the network's device.

    Some networks change the tensors that pass between their modules in place (Falcon adds the
    attention's output to the MLP's), so captured activations are copied, and replacements too.
    """

    def __init__(self, network: Any, trunk: nn.Module | None, blocks: Sequence[str]) -> None:
        """Passes of a network.

        Args:
            network: a causal language model of transformers.
            trunk: the part of it that ends in the final hidden states; None if it cannot be
                separated from the head, in which case logits take the place of hidden states.
            blocks: the paths of its blocks.
        """
        self._network, self._trunk, self._blocks = network, trunk, blocks
        self._device = next(network.parameters()).device
        self._block_returns_tuple: dict[int, bool] = {}

    @torch.inference_mode()
    def run(self, tokens: Tensor) -> Tensor:
        """Final hidden states, or logits if there is no trunk. [B, T, d_model]"""
        tokens = tokens.to(self._device, non_blocking=True)
        with never_packed():
            if self._trunk is None:
                logits: Tensor = self._network(input_ids=tokens, use_cache=False).logits
                return logits
            output = self._trunk(input_ids=tokens, use_cache=False, return_dict=True)
        hidden: Tensor = output.last_hidden_state
        return hidden

    @torch.inference_mode()
    def passing(self, tokens: Tensor, port: Port) -> list[Any]:
        """Everything that passes a port in one pass."""
        found: list[Any] = []
        with self._hooked(port, found.append):
            self.run(tokens)
        return found

    @torch.inference_mode()
    def activations(self, tokens: Tensor, site: Site) -> Tensor:
        """Activations at a site; the pass ends there. [B, T, d]"""
        found: list[Tensor] = []

        def keep(value: Tensor) -> None:
            found.append(value)
            raise _Captured

        with self._hooked(site.port, keep), contextlib.suppress(_Captured):
            self.run(tokens)
        return site.read(found[0], tokens.shape)

    @torch.inference_mode()
    def clean(self, tokens: Tensor, site: Site, inputs: Mapping[str, Site] | None = None) -> Pass:
        """A pass that replaces nothing; it keeps activations at the site and at ``inputs``."""
        found: dict[str, Tensor] = {}
        read: dict[str, Tensor] = {}
        inputs = inputs or {}
        with contextlib.ExitStack() as stack:
            for name, other in inputs.items():
                stack.enter_context(self._hooked(other.port, _into(read, name)))
            stack.enter_context(self._hooked(site.port, _into(found, "activation")))
            if not site.residual and site.added_at is None:
                stack.enter_context(self._hooked(self._entry(site.block), _into(found, "entry")))
            if not self._block_returns_tuple:
                for index, path in enumerate(self._blocks):
                    block = self._network.get_submodule(path)
                    note = block.register_forward_hook(self._note_kind(index))
                    stack.enter_context(removing(note))
            hidden = self.run(tokens)
        activation = site.read(found["activation"], tokens.shape)
        others = {name: inputs[name].read(value, tokens.shape) for name, value in read.items()}
        return Pass(hidden, activation, found.get("entry", activation), others)

    @torch.inference_mode()
    def clean_at(
        self, tokens: Tensor, sites: Sequence[Site], inputs: Mapping[str, Site]
    ) -> list[Pass]:
        """One pass that replaces nothing, as a clean pass of each of several sites."""
        found: dict[str, Tensor] = {}
        read: dict[str, Tensor] = {}
        with contextlib.ExitStack() as stack:
            for name, other in inputs.items():
                stack.enter_context(self._hooked(other.port, _into(read, name)))
            for i, site in enumerate(sites):
                stack.enter_context(self._hooked(site.port, _into(found, f"{i}")))
                entry = self._entry(site.block)
                stack.enter_context(self._hooked(entry, _into(found, f"entry {i}")))
            hidden = self.run(tokens)
        others = {name: inputs[name].read(value, tokens.shape) for name, value in read.items()}
        return [
            Pass(hidden, site.read(found[f"{i}"], tokens.shape), found[f"entry {i}"], others)
            for i, site in enumerate(sites)
        ]

    @torch.inference_mode()
    def spliced_as_read(
        self,
        tokens: Tensor,
        sources: Sequence[Site],
        sites: Sequence[Site],
        reading: Callable[[int, Tensor], object],
        writing: Callable[[int, Tensor], Tensor],
    ) -> Tensor:
        """Final hidden states of a pass whose activations at some sites are replaced as it runs.

        Args:
            tokens: the token ids. [B, T]
            sources: the sites that are read, in order.
            sites: the sites that are replaced, in order.
            reading: called with the index and the activation of each source. [B, T, d]
            writing: called with the index and the activation of each site; its result replaces the
                activation.
        """

        def reads(index: int, source: Site) -> Callable[[Any], None]:
            def read(value: Any) -> None:
                reading(index, source.read(value, tokens.shape))

            return read

        def writes(index: int, site: Site) -> Callable[[Any], Tensor]:
            return lambda value: site.written(writing(index, site.read(value, tokens.shape)), value)

        with contextlib.ExitStack() as stack:
            for index, source in enumerate(sources):
                stack.enter_context(self._hooked(source.port, reads(index, source)))
            for index, site in enumerate(sites):
                stack.enter_context(self._hooked(site.port, writes(index, site)))
            return self.run(tokens)

    @torch.inference_mode()
    def resume(self, tokens: Tensor, site: Site, clean: Pass, replacement: Tensor) -> Tensor:
        """Final hidden states with a site's activation replaced; only the blocks after it run."""
        if not site.resumable:
            return self.splice(tokens, site, replacement)
        entering = replacement if site.residual else clean.entry
        if site.added_at is not None:
            entering = torch.zeros_like(replacement)
        with contextlib.ExitStack() as stack:
            for index in range(site.block):
                stack.enter_context(self._passing_through(index, entering))
            if site.block == 0:
                stack.enter_context(self._hooked(self._entry(0), lambda _: entering.clone()))
            if not site.residual:
                stack.enter_context(self._replacing(site, replacement))
            return self.run(tokens)

    @torch.inference_mode()
    def splice(self, tokens: Tensor, site: Site, replacement: Tensor) -> Tensor:
        """As :meth:`resume`, by a full pass."""
        with contextlib.ExitStack() as stack:
            if site.added_at is not None:
                entry = self._entry(site.block)
                stack.enter_context(self._hooked(entry, torch.zeros_like))
            stack.enter_context(self._replacing(site, replacement))
            return self.run(tokens)

    def spliced_passing(
        self, tokens: Tensor, site: Site, replacement: Tensor, port: Port
    ) -> list[Any]:
        """Everything that passes a port while a site's activation is replaced."""
        found: list[Any] = []
        with self._hooked(port, lambda value: found.append(value.clone())):
            self.splice(tokens, site, replacement)
        return found

    def _entry(self, block: int) -> Port:
        """Where the residual stream that enters a block can be captured."""
        if block < len(self._blocks):
            return Port(self._blocks[block], "input")
        return Port(self._blocks[-1], "output")

    def _replacing(
        self, site: Site, replacement: Tensor
    ) -> contextlib.AbstractContextManager[None]:
        port = site.port if site.added_at is None else site.added_at
        return self._hooked(port, lambda value: site.written(replacement, value))

    def _note_kind(self, index: int) -> Any:
        def note(module: nn.Module, arguments: Any, output: Any) -> None:
            self._block_returns_tuple[index] = isinstance(output, tuple | list)

        return note

    def _passing_through(
        self, index: int, residual: Tensor
    ) -> contextlib.AbstractContextManager[None]:
        """Make a block return ``residual`` without computing, in the form of its own output."""
        block = self._network.get_submodule(self._blocks[index])
        is_tuple = self._block_returns_tuple[index]

        def forward(*_: Any, **__: Any) -> Any:
            own = residual.clone()
            return (own,) if is_tuple else own

        return forwarding(block, forward)

    def _hooked(self, port: Port, function: Any) -> contextlib.AbstractContextManager[None]:
        return hooked(self._network.get_submodule(port.module), port.side, function)


def _into(found: dict[str, Tensor], key: str) -> Callable[[Any], None]:
    """A function that stores a copy of its argument in ``found`` under ``key``."""

    def keep(value: Any) -> None:
        found[key] = value.clone()

    return keep
