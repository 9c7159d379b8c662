"""Context managers that change what a module of a network does until their block ends."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from prolu_eval.lm.sites import Side


@contextlib.contextmanager
def hooked(module: nn.Module, side: Side, function: Callable[[Any], Any]) -> Iterator[None]:
    """Until the block ends, replace a module's input or output by a function of it.

    If ``function`` returns None, the input or output is not changed.
    """

    def on_output(_: nn.Module, arguments: Any, output: Any) -> Any:
        several = isinstance(output, tuple | list)
        value = function(output[0] if several else output)
        return type(output)((value, *output[1:])) if several and value is not None else value

    def on_input(_: nn.Module, arguments: Any, keywords: dict[str, Any]) -> Any:
        if arguments:
            value = function(arguments[0])
            return None if value is None else ((value, *arguments[1:]), keywords)
        name = "hidden_states" if "hidden_states" in keywords else next(iter(keywords), None)
        if name is None:
            return None
        value = function(keywords[name])
        return None if value is None else (arguments, {**keywords, name: value})

    handle = (
        module.register_forward_hook(on_output)
        if side == "output"
        else module.register_forward_pre_hook(on_input, with_kwargs=True)
    )
    with removing(handle):
        yield


@contextlib.contextmanager
def forwarding(module: Any, forward: Any) -> Iterator[None]:
    """Replace a module's ``forward`` until the block ends, and restore the earlier one after."""
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


@contextlib.contextmanager
def removing(handle: Any) -> Iterator[None]:
    """Remove a hook when the block ends."""
    try:
        yield
    finally:
        handle.remove()
