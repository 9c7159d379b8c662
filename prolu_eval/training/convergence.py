"""Deciding whether a training had converged when it ended."""

from torch import Tensor

from prolu_eval.estimates import number

# The largest fractions by which L0 and the loss may fall from one fifth of the steps to the next.
_MOST_L0, _MOST_LOSS = 0.2, 0.05
_MOST_DEAD = 0.5
# If the learning rate falls before this fraction of the steps, no two fifths come before the fall.
_EARLIEST = 0.4


def not_converged(
    history: dict[str, Tensor], silent: Tensor, tokens: int, decay: float
) -> str | None:
    """Why a run's training is called unfinished, as a clause; None if it had converged.

    The rule uses the values that were logged at evenly spaced steps. It compares the last fifth of
    the steps before the learning rate falls with the fifth before that. Training is unfinished if
    the median L0 is lower by more than 20 %, or the median loss by more than 5 %. It is also
    unfinished if more than half of all features did not fire in the last fifth of the tokens. The
    steps with a falling learning rate are left out, because then the loss falls in every training,
    however long. A frontier through unfinished runs shows how far training had come rather than
    what a variant can do.

    The limits come from sweeps on the embedded model with a quarter, once, twice and four times the
    demo's tokens; docs/inputs.md gives the figures.

    Args:
        history: logged scalars, including ``l0`` and ``loss``. [n_logs] each
        silent: the number of tokens since each feature last fired. [d_sae]
        tokens: the number of tokens that the run was trained on.
        decay: the fraction of steps, at the end, with a falling learning rate.
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
