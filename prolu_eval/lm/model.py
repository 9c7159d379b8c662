"""A causal language model with named hook points."""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from prolu_eval.errors import ModelError
from prolu_eval.lm.loading import Loaded, load_network, official_name
from prolu_eval.lm.passes import Pass, Passes
from prolu_eval.lm.read_out import find_read_out
from prolu_eval.lm.sites import Site, Unfit, hook_sites, module_site, one_head, read_sites
from prolu_eval.lm.trial import FAILURES, check_causal, check_reaches, read_in_trial, tried
from prolu_eval.lm.unpadded import never_padded
from prolu_eval.runs import split_head
from prolu_eval.spelling import near

_USUAL = ("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post",
          "attn.hook_z", "mlp.hook_post")  # fmt: skip


class LanguageModel:
    """A causal language model with named hook points. Build one with :meth:`load`."""

    def __init__(self, name: str, loaded: Loaded, *, processed: bool = False) -> None:
        self.name, self.fingerprint = name, loaded.fingerprint
        self.tokenizer = loaded.tokenizer
        self._network = loaded.network
        self._network.eval().requires_grad_(False)
        bridge, modules = loaded.bridge, loaded.modules
        self._named = frozenset(bridge.hook_dict)
        self._sites = hook_sites(bridge, modules, processed=processed)
        self._read_sites = read_sites(bridge, modules, processed=processed)
        self._blocks = [modules[id(block.original_component)] for block in bridge.blocks]
        self._d_head: int = bridge.cfg.d_head
        self._tried: dict[str, Site] = {}
        self._read: dict[str, Site] = {}
        self._widths: dict[str, int] = {}
        config = self._network.config.get_text_config()
        self.d_model: int = config.hidden_size
        self.vocab_size: int = config.vocab_size
        self.context_length: int | None = getattr(config, "max_position_embeddings", None)
        self.device = next(self._network.parameters()).device
        self.dtype = next(self._network.parameters()).dtype
        self._trunk = self._network.base_model
        never_padded(self._trunk)
        try:
            self._read_out = find_read_out(self._network, self._trunk, self.vocab_size)
            trunk = None if self._read_out is None else self._trunk
            self._passes = Passes(self._network, trunk, self._blocks)
            check_causal(self._passes, self.vocab_size)
        except Unfit as reason:
            raise ModelError(name, str(reason), "name a causal language model") from None
        except FAILURES as error:
            failed = f"cannot be run in {str(self.dtype).removeprefix('torch.')} ({error})"
            raise ModelError(name, failed, "pass another --dtype") from None

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
        """Load a model by name; of a multimodal model, only the part that reads text.

        Args:
            name: ``embedded`` (the package's own), a local Hugging Face folder, a hub name, or an
                alias of one in TransformerLens.
            device: a torch device; None for CUDA where it is available, else the CPU.
            device_map: how to spread a model over several devices (``auto`` or ``balanced``, needs
                accelerate), instead of ``device``.
            dtype: the precision of the weights and the passes.
            revision: a hub revision.
            processed: whether hook points give the activations that they have with weights as
                TransformerLens processes them by default (centred writing weights, folded value
                biases).

        Raises:
            ModelError: if the name is neither a model folder nor a hub model that can be reached,
                if the model is no causal language model, or if TransformerLens does not know its
                architecture.
        """
        name = official_name(name)
        loaded = load_network(name, device, device_map, dtype, revision)
        return cls(name, loaded, processed=processed)

    @property
    def n_blocks(self) -> int:
        """Number of transformer blocks."""
        return len(self._blocks)

    @property
    def hooks(self) -> tuple[str, ...]:
        """Every hook name of the blocks that names a module's input or output, in order.

        :meth:`site` finds out which of them can be spliced.
        """
        return tuple(self._sites)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of the tokens that stand for no text: BOS, EOS, PAD and other special tokens."""
        if self.tokenizer is None:
            return frozenset()
        return frozenset(self.tokenizer.all_special_ids)

    def site(self, hook: str) -> Site:
        """Where a hook point is in the network, after splicing there was tried on a few tokens.

        A hook point may also be named ``PATH.input`` or ``PATH.output``, where PATH is the path of
        a module within the blocks.

        Raises:
            ModelError: if the model has no such hook point, or splicing there is not faithful.
        """
        if hook not in self._tried:
            whole, head = split_head(hook)
            site = self._sites.get(whole) or module_site(self._network, self._blocks, whole)
            if site is None:
                raise self._no_site(hook, self._absence(whole))
            try:
                if head is not None:
                    site = one_head(site, whole, head, self._d_head, self.width(whole))
                self._tried[hook] = tried(self._passes, site, self.vocab_size)
            except Unfit as reason:
                raise self._no_site(hook, str(reason)) from None
            except FAILURES as error:
                failed = f"makes the network fail when it is replaced ({error})"
                raise self._no_site(hook, failed) from None
        return self._tried[hook]

    def source(self, hook: str, into: str) -> Site:
        """Where the hook point is that a dictionary reads, to replace the activation at ``into``.

        It may be any hook point of :meth:`site`, and also ``hook_mlp_in`` or the
        ``hook_normalized`` of a norm, whose activations can be read but not replaced.

        Raises:
            ModelError: if there is no such hook point, if it cannot be read, or if its activation
                depends on the one at ``into``.
        """
        site = self._source(hook)
        if hook != into:
            try:
                check_reaches(self._passes, site, self.site(into), self.vocab_size)
            except Unfit as reason:
                raise self._no_site(hook, str(reason), f"read for {into}") from None
        return site

    def _source(self, hook: str) -> Site:
        if hook in self._tried:
            return self._tried[hook]
        if hook not in self._read:
            site = self._sites.get(hook) or self._read_sites.get(hook)
            site = site or module_site(self._network, self._blocks, hook)
            if site is None:
                raise self._no_site(hook, self._absence(hook), "read")
            try:
                self._read[hook] = read_in_trial(self._passes, site, self.vocab_size)
            except Unfit as reason:
                raise self._no_site(hook, str(reason), "read") from None
            except FAILURES as error:
                raise self._no_site(hook, f"cannot be read ({error})", "read") from None
        return self._read[hook]

    def canonical_name(self, hook: str) -> str:
        """The most usual of all names that a hook point has."""
        site = self._sites.get(hook) or module_site(self._network, self._blocks, hook)
        block = hook.removeprefix("blocks.").partition(".")[0]
        if site is not None and not hook.startswith("blocks."):
            block = str(next(i for i, p in enumerate(self._blocks) if _within(site.port.module, p)))
        names = (f"blocks.{block}.{name}" for name in _USUAL)
        return next((n for n in names if site is not None and self._sites.get(n) == site), hook)

    def width(self, hook: str) -> int:
        """Width of the activations at a hook point."""
        if hook not in self._widths:
            one = torch.zeros(1, 1, dtype=torch.long)
            self._widths[hook] = self.activations(one, hook).shape[-1]
        return self._widths[hook]

    def activations(self, tokens: Tensor, hook: str) -> Tensor:
        """Activations at a hook point; the pass ends there. [B, T] int64 -> [B, T, d].

        A hook point that can be read but not replaced has to be passed to :meth:`source` first.
        """
        return self._passes.activations(tokens, self._read.get(hook) or self.site(hook))

    def clean(self, tokens: Tensor, hook: str, inputs: Collection[str] = ()) -> Pass:
        """A pass that replaces nothing; it also keeps activations at ``inputs``. [B, T] int64"""
        sources = {name: self._read.get(name) or self.site(name) for name in inputs}
        return self._passes.clean(tokens, self.site(hook), sources)

    def clean_at(
        self, tokens: Tensor, hooks: Sequence[str], inputs: Collection[str] = ()
    ) -> list[Pass]:
        """One pass that replaces nothing, and for each hook point what :meth:`clean` would return.

        Raises:
            ModelError: if a hook point is the sum of several modules' outputs: such a hook point
                cannot be replaced together with others.
        """
        sources = {name: self._read.get(name) or self.site(name) for name in inputs}
        return self._passes.clean_at(tokens, self._together(hooks), sources)

    def spliced_as_read(
        self,
        tokens: Tensor,
        read: Sequence[str],
        hooks: Sequence[str],
        reading: Callable[[int, Tensor], object],
        writing: Callable[[int, Tensor], Tensor],
    ) -> Tensor:
        """Hidden states of a pass whose activations at some hook points are replaced as it runs.

        The replacements are computed from activations that the same pass reads at other hook
        points.

        Args:
            tokens: the token ids. [B, T] int64
            read: the hook points that are read, in the order of the pass.
            hooks: the hook points whose activations are replaced.
            reading: called with the index and the activation of each hook point of ``read``.
                [B, T, d]
            writing: called with the index and the activation of each hook point of ``hooks``; its
                result replaces the activation. [B, T, d] -> [B, T, d]

        Raises:
            ModelError: as :meth:`clean_at`.
        """
        sources = [self._read.get(name) or self.site(name) for name in read]
        return self._passes.spliced_as_read(
            tokens, sources, self._together(hooks), reading, writing
        )

    def _together(self, hooks: Sequence[str]) -> list[Site]:
        sites = [self.site(hook) for hook in hooks]
        for hook, site in zip(hooks, sites, strict=True):
            if site.added_at is not None:
                raise self._no_site(
                    hook, "is no single module's input or output", "replaced with others"
                )
        return sites

    def resume(self, tokens: Tensor, hook: str, clean: Pass, replacement: Tensor) -> Tensor:
        """Hidden states with a hook point's activation replaced; only the blocks after it run.

        Args:
            tokens: the token ids of the clean pass. [B, T] int64
            hook: the hook point of the clean pass.
            clean: what :meth:`clean` returned for these tokens.
            replacement: the activation to put in its place. [B, T, d]

        Returns:
            Final hidden states, equal to those of :meth:`splice` up to rounding. [B, T, d_model]
        """
        return self._passes.resume(tokens, self.site(hook), clean, replacement)

    def splice(self, tokens: Tensor, hook: str, replacement: Tensor) -> Tensor:
        """As :meth:`resume`, by a full pass, which is slower and serves to check resumed ones."""
        return self._passes.splice(tokens, self.site(hook), replacement)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits of final hidden states. [..., d_model] -> [..., vocab]"""
        return hidden if self._read_out is None else self._read_out(hidden)

    def _no_site(self, hook: str, reason: str, done: str = "spliced") -> ModelError:
        return ModelError(
            self.name,
            f"has no hook point {hook!r} that can be {done}: it {reason}",
            f"pass --hook with another, such as {self._choice(hook)}",
        )

    def _absence(self, hook: str) -> str:
        if hook in self._named:
            return "is no module's input or output, so it cannot be replaced"
        return f"is no hook point of its {self.n_blocks} blocks"

    def _choice(self, hook: str) -> str:
        """Hook points that are written nearly so, or the usual ones of a block, or of all."""
        block = hook.removeprefix("blocks.").partition(".")[0]
        same_block = [name for name in self._sites if name.startswith(f"blocks.{block}.")]
        if hook not in self._named and (meant := near(hook, same_block)):
            return " or ".join(meant)
        names = [f"blocks.{block}.{name}" for name in _USUAL]
        if not (known := [name for name in names if name in self._sites and name != hook]):
            last = self.n_blocks - 1
            return f"blocks.0.hook_resid_pre to blocks.{last}.hook_resid_post"
        return ", ".join(known)


def _within(module: str, block: str) -> bool:
    return f"{module}.".startswith(f"{block}.")
