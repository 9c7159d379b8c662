"""What the report's figures show, and how variants look in all of them.

Variants have one colour and one marker everywhere. The colours are Okabe and Ito's, which remain
distinct in the common forms of colour blindness; the markers tell variants apart without colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from prolu_eval.metrics import METRICS

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7F7F7F")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")


def styles(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each variant, by order of name; 56 variants differ in one or both."""
    return {
        label: (_COLOURS[i % len(_COLOURS)], _SYMBOLS[(i + i // len(_COLOURS)) % len(_SYMBOLS)])
        for i, label in enumerate(sorted(set(labels)))
    }


def axis_title(key: str) -> str:
    """A metric's name and unit."""
    if key == "coefficient":
        return "sparsity coefficient"
    metric = METRICS[key]
    return f"{metric.title} ({metric.unit})" if metric.unit else metric.title


@dataclass(frozen=True)
class View:
    """A figure of runs over two columns.

    A ``frontier`` view joins each variant's nondominated runs, another all runs of a variant in
    order of ``x``. ``topic`` is the section that it stands in.
    """

    x: str
    y: str
    topic: str
    reading: str
    frontier: bool = False
    logarithmic: str = ""

    @property
    def title(self) -> str:
        """The two columns by name."""
        name = "the coefficient" if self.x == "coefficient" else METRICS[self.x].title
        title = f"{METRICS[self.y].title} against {name}"
        return title[0].upper() + title[1:]


TOPICS = {
    "frontiers": "Frontiers",
    "suppression": "Feature suppression",
    "biases": "Encoder biases and thresholds",
    "activity": "Dead and dense features",
    "consistency": "Scale consistency",
}

VIEWS = (
    View("l0", "ce_degradation", "frontiers",
         "The write-up's target: fewer active features for less damage to the language model. "
         "Lower left is better.", frontier=True),
    View("l0", "bits_lost", "frontiers",
         "The same damage in bits per token.", frontier=True),
    View("l1", "mse", "frontiers",
         "The proxy that training minimises. A variant that leads over L0 and CE degradation and "
         "not here gains from the slack between the proxy and the target.", frontier=True),
    View("sqrt_l1", "mse", "frontiers",
         "The proxy of the sqrt-L1 penalty; the write-up had not logged it.", frontier=True),
    View("l0", "l1", "suppression",
         "At equal L0, a variant with the larger L1 shrinks its active features less."),
    View("l0", "sqrt_l1", "suppression", "The same in terms of sqrt-L1."),
    View("l0", "relative_reconstruction_bias", "suppression",
         "Below 1, reconstructions are smaller than they should be: shrinkage."),
    View("l0", "l2_ratio", "suppression",
         "The norm of the reconstruction against that of the activation; 1 is unshrunk."),
    View("coefficient", "bias_negative_fraction", "biases",
         "A positive ProLU bias acts as zero: where most biases are negative, the variant misses "
         "nothing.", logarithmic="x"),
    View("l0", "bias_negative_fraction", "biases",
         "The same against sparsity, which makes variants with other coefficients comparable."),
    View("l0", "dead_fraction", "activity",
         "Features that never fired on the evaluated tokens."),
    View("l0", "dense_fraction", "activity",
         "Features that fired on more than a tenth of the evaluated tokens."),
    View("l0", "scale_consistency_homogeneity", "consistency",
         "How far a feature's activation is from growing in proportion to its input once it is on; "
         "0 is scale-consistent."),
    View("l0", "scale_consistency_additivity", "consistency",
         "How far the response to a sum of two activations is from the sum of the responses."),
)  # fmt: skip
