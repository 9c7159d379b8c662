"""Whether a training had come to rest when it ended."""

from torch import Tensor

from prolu_eval.estimates import number

# How much L0 and loss may fall from one fifth of the steps to the next.
_MOST_L0, _MOST_LOSS = 0.2, 0.05
_MOST_DEAD = 0.5
# Earlier than this, two fifths do not fit before the learning rate falls.
_EARLIEST = 0.4


def not_converged(
    history: dict[str, Tensor], silent: Tensor, tokens: int, decay: float
) -> str | None:
    """Why a run's training is called unfinished: a clause; None if it is not.

    The rule, over the values that were logged at evenly spaced steps: in the last fifth of the
    steps before the learning rate falls, the median L0 is lower than in the fifth before it by more
    than 20 %, or the median loss by more than 5 %; or more than half of all features did not fire
    in the last fifth of the tokens. While the rate falls the loss falls in every training, however
    long, so that the rule looks at what comes before. A frontier through such runs says how far
    training had come rather than what a variant can do.

    The limits are from sweeps of the embedded model at a quarter, once, twice and four times the
    demo's tokens: docs/inputs.md has the figures.

    Args:
        history: logged scalars, ``l0`` and ``loss`` among them. [n_logs] each
        silent: tokens since each feature fired. [d_sae]
        tokens: how many the run was trained on.
        decay: the fraction of steps with a falling learning rate, at the end.
    """
    for name, title, most in (("l0", "L0", _MOST_L0), ("loss", "the loss", _MOST_LOSS)):
        values = history[name]
        n = len(values) // 5
        end = round(len(values) * (1 - decay if 1 - decay >= _EARLIEST else 1))
        if not n or end < 2 * n:
            continue
        before, last = (values[end - k * n : end - (k - 1) * n].median().item() for k in (2, 1))
        if last < (1 - most) * before:
            when = "fifth" if decay == 0 else "fifth before the rate fell"
            fell = f"from {number(before)} to {number(last)} in the last {when}"
            return f"{title} was still falling, {fell}"
    dead = (silent >= tokens / 5).float().mean().item()
    if dead > _MOST_DEAD:
        return f"{100 * dead:.0f} % of the features did not fire in the last fifth of the tokens"
    return None
