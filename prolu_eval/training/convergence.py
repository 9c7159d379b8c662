"""Whether a training had come to rest when it ended."""

from torch import Tensor

# How much L0 and loss may fall between the last fifth and the fifth before it.
_MOST_L0, _MOST_LOSS = 0.1, 0.05
_MOST_DEAD = 0.5


def not_converged(history: dict[str, Tensor], silent: Tensor, tokens: int) -> str | None:
    """Why a run's training is called unfinished: a clause; None if it is not.

    The rule, over the values that were logged at evenly spaced steps: the median L0 of the last
    fifth is lower than that of the fifth before it by more than 10 %, or the median loss by more
    than 5 %; or more than half of all features did not fire in the last fifth of the tokens.
    A frontier through such runs says how far training had come rather than what a variant can do.

    Args:
        history: logged scalars, ``l0`` and ``loss`` among them. [n_logs] each
        silent: tokens since each feature fired. [d_sae]
        tokens: how many the run was trained on.
    """
    for name, title, most in (("l0", "L0", _MOST_L0), ("loss", "the loss", _MOST_LOSS)):
        values = history[name]
        n = len(values) // 5
        if not n:
            continue
        before, last = values[-2 * n : -n].median().item(), values[-n:].median().item()
        if last < (1 - most) * before:
            return f"{title} was still falling, from {before:.4g} to {last:.4g} in the last fifth"
    dead = (silent >= tokens / 5).float().mean().item()
    if dead > _MOST_DEAD:
        return f"{100 * dead:.0f} % of the features did not fire in the last fifth of the tokens"
    return None
