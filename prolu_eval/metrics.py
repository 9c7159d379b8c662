"""Every scalar metric, defined once: as a ratio of per-sequence sums.

The engine accumulates, per sequence, sums over counted positions (:data:`COLUMNS`). A metric is an
affine function of a ratio of two linear combinations of those sums, so that its value, its
standard error clustered by sequence, and a paired difference between two runs all follow from the
stored sums, without the model. ``prolu-eval metrics``, the report and the results read this table.

For a transcoder, x is the activation at its output site, which x_hat reconstructs.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from prolu_eval.errors import UsageError
from prolu_eval.spelling import near, plain, writing

METRIC_VERSION = 3
# 1: first version (2026-11)
# 2: scale consistency, and the alignment of encoder and decoder (2026-11)
# 3: cross-entropy and KL exclude special tokens and padding as targets (2026-11)

# Sums over the counted positions of a sequence: those whose token is neither special nor padding.
# The sums `ce_...` and `kl` are over the counted positions whose next token counts too, so that
# neither special tokens nor padding are targets; the number of these positions is `n_next`.
COLUMNS: dict[str, str] = {
    "n": "counted positions",
    "n_next": "counted positions whose next token counts too",
    "l0": "number of nonzero codes",
    "l1": "sum of |a_i| norm(W_dec_i)",
    "l1_raw": "sum of |a_i|",
    "sqrt_l1": "sum of sqrt(|a_i| norm(W_dec_i))",
    "sqrt_l1_raw": "sum of sqrt(|a_i|)",
    "squared_error": "squared norm of x - x_hat",
    "squared_deviation": "squared norm of x - mean(x)",
    "cosine_similarity": "cosine of x and x_hat",
    "norm_ratio": "norm(x_hat) / norm(x)",
    "x_hat_squared": "squared norm of x_hat",
    "x_hat_dot_x": "inner product of x_hat and x",
    "squared_skip_error": "squared norm of x minus a transcoder's output with every feature off",
    "ce_clean": "cross-entropy with nothing replaced",
    "ce_spliced": "cross-entropy with x replaced by x_hat",
    "ce_zero": "cross-entropy with x replaced by zero",
    "ce_mean": "cross-entropy with x replaced by its mean",
    "kl": "KL(clean, spliced) of next-token distributions",
}

# Sums over pairs of activations of some sequences, computed after everything else.
CONSISTENCY_COLUMNS: dict[str, str] = {
    "additivity_gap": "sum of |f_i(v1) + f_i(v2) - f_i(v1 + v2)| norm(W_dec_i), active in both",
    "additivity_size": "sum of (f_i(v1) + f_i(v2)) norm(W_dec_i), active in both",
    "homogeneity_gap": "sum of |f_i(k v) - k f_i(v)| norm(W_dec_i), active, over factors k",
    "homogeneity_size": "sum of k f_i(v) norm(W_dec_i), active, over factors k",
    "threshold_missing": "active features with a negative bias and no threshold along v",
    "threshold_needed": "active features with a negative bias",
}

# Sums over the same activations, for the explained variance that others publish.
LEGACY_COLUMNS: dict[str, str] = {
    "error_ratio": "sum of norm(x - x_hat)^2 / norm(x - mean(x))^2, the mean being theirs",
    "n_ratios": "number of activations",
}

# Sums over a benchmark's known features, and over the latents that are matched with them.
TRUTH_COLUMNS: dict[str, str] = {
    "true_positives": "features that are active and whose latent fires",
    "matched_firing": "features whose latent fires",
    "true_active": "features that are active",
    "absorbed": "active parents of active children whose latent is silent while a child's latent "
    "that has their direction fires",
    "absorbable": "active parents of active children, all with a latent",
}

# Sums over the tasks that the language model itself can do. Every task has the same weight, however
# many examples it has.
PROBE_KS = (1, 2, 5, 16, 128)
TASK_COLUMNS: dict[str, str] = {
    "n_tasks": "1",
    "auc_dense": "AUC of the probe on the activations themselves",
    "accuracy_dense": "accuracy of the probe on the activations themselves",
    **{f"auc_k{k}": f"AUC of the probe on {k} latents" for k in PROBE_KS},
    **{f"accuracy_k{k}": f"accuracy of the probe on {k} latents" for k in PROBE_KS},
    "right_clean": "fraction of examples that the model gets right with nothing replaced",
    "right_spliced": "fraction of examples that the model gets right with x replaced by x_hat",
}

Direction = Literal["min", "max", "none"]
TaskKind = Literal["probes", "behaviour"]
Over = Literal["sequences", TaskKind]
Terms = dict[str, float]


@dataclass(frozen=True)
class Metric:
    """``offset + scale * sum(numerator) / sum(denominator)`` over per-sequence sums.

    ``direction`` says whether less or more is better. A metric with neither numerator nor
    denominator is computed from per-feature arrays (:mod:`prolu_eval.evaluation.features`). A
    metric that ``needs_truth`` is measured only on benchmarks with known features
    (:mod:`prolu_eval.evaluation.truth`). A metric that is not ``over`` sequences is a mean over
    tasks of a kind; their sums are stored separately, and they are measured only on request
    (:mod:`prolu_eval.evaluation.extra_measures`).
    """

    key: str
    title: str
    unit: str
    direction: Direction
    definition: str
    numerator: Terms = field(default_factory=dict)
    denominator: Terms = field(default_factory=dict)
    scale: float = 1.0
    offset: float = 0.0
    needs_truth: bool = False
    over: Over = "sequences"


def _mean(
    key: str, column: str, title: str, unit: str, direction: Direction, definition: str
) -> Metric:
    count = "n_next" if column.startswith(("ce_", "kl")) else "n"
    return Metric(key, title, unit, direction, definition, {column: 1.0}, {count: 1.0})


def _recovered(key: str, ablated: str, replacement: str) -> Metric:
    return Metric(
        key,
        f"CE recovered ({replacement} ablation)",
        "fraction",
        "max",
        f"({ablated} - ce_spliced) / ({ablated} - ce_clean), of the means over all tokens",
        {ablated: 1.0, "ce_spliced": -1.0},
        {ablated: 1.0, "ce_clean": -1.0},
    )


def _violation(name: str, gap: str, size: str, definition: str) -> Metric:
    return Metric(
        f"scale_consistency_{name}", f"violation of {name}", "fraction", "min", definition,
        {gap: 1.0}, {size: 1.0},
    )  # fmt: skip


def _of_truth(
    key: str,
    title: str,
    unit: str,
    direction: Direction,
    definition: str,
    numerator: str | None = None,
    denominator: Terms | None = None,
    scale: float = 1.0,
) -> Metric:
    above = {} if numerator is None else {numerator: 1.0}
    return Metric(
        key, title, unit, direction, definition, above, denominator or {}, scale, needs_truth=True
    )


_TRUTH = [
    _of_truth(
        "mcc", "mean correlation coefficient", "", "max",
        "mean absolute cosine of decoder rows and true directions, in the one-to-one matching for "
        "which it is largest",
    ),
    _of_truth(
        "mcc_chance", "MCC, chance", "", "none",
        "mcc of a random dictionary of the same shape",
    ),
    _of_truth(
        "recovered_fraction", "features recovered", "fraction", "max",
        "fraction of true features whose matched decoder row has an absolute cosine of 0.9 or more "
        "with them",
    ),
    _of_truth(
        "feature_precision", "precision of features", "fraction", "max",
        "how often a feature is active where its matched latent fires, pooled over all features",
        "true_positives", {"matched_firing": 1.0},
    ),
    _of_truth(
        "feature_recall", "recall of features", "fraction", "max",
        "how often a feature's matched latent fires where the feature is active, pooled over all "
        "features",
        "true_positives", {"true_active": 1.0},
    ),
    _of_truth(
        "feature_f1", "F1 of features", "fraction", "max",
        "harmonic mean of the pooled precision and recall",
        "true_positives", {"matched_firing": 1.0, "true_active": 1.0}, 2.0,
    ),
    _of_truth(
        "feature_f1_macro", "F1 of features, each alike", "fraction", "max",
        "mean over true features of each one's F1, so that rare features count as much as frequent "
        "ones",
    ),
    _of_truth(
        "magnitude_slope", "slope of magnitudes", "", "none",
        "mean over recovered features of the least-squares slope of the magnitude that their "
        "latent writes against the true magnitude, where both are active; 1 means proportional",
    ),
    _of_truth(
        "magnitude_intercept", "intercept of magnitudes", "", "none",
        "mean over recovered features of the intercept of the same line, divided by the feature's "
        "mean magnitude; 0 means scale-consistent, below 0 suppression by a constant",
    ),
    _of_truth(
        "magnitude_r2", "R2 of magnitudes", "fraction", "max",
        "mean over recovered features of 1 - (squared error of the magnitude written) / (variance "
        "of the true one), wherever the feature is active; nothing is fitted, and a silent latent "
        "counts as magnitude 0",
    ),
    _of_truth(
        "absorption", "absorption", "fraction", "min",
        "for parents that are active together with a child: how often the parent's latent is "
        "silent while an active child's latent fires that also has the parent's direction (with a "
        "cosine 0.2 above that of the child's own direction)",
        "absorbed", {"absorbable": 1.0},
    ),
    _of_truth(
        "splitting", "split features", "fraction", "min",
        "fraction of true features that are the nearest feature of two or more latents that fire, "
        "with an absolute cosine of 0.7 or more",
    ),
    _of_truth(
        "spurious_fraction", "spurious latents", "fraction", "min",
        "fraction of the latents that fire whose absolute cosine with every true feature is below "
        "0.7",
    ),
    _of_truth(
        "ideal_l0", "L0 of the truth", "features", "none",
        "number of true features that are active per sample", "true_active", {"n": 1.0},
    ),
]  # fmt: skip

GEOMETRY = [
    Metric(
        "decoder_cosine", "overlap of decoder rows", "", "min",
        "mean absolute cosine of every two decoder rows (for more than 1,024 rows, of 1,024 random "
        "ones with all others); as L0 varies, it is least where L0 suits the data (arXiv "
        "2508.16560)",
    ),
    Metric(
        "decoder_cosine_nearest", "nearest decoder row", "", "min",
        "mean of the largest absolute cosine of a decoder row with another one, over the same rows "
        "as decoder_cosine",
    ),
    Metric(
        "decoder_cosine_median", "median overlap of decoder rows", "", "none",
        "median absolute cosine of every two decoder rows, over the same rows",
    ),
    Metric(
        "decoder_cosine_p99", "99th percentile of overlap", "", "none",
        "99th percentile of the absolute cosines of every two decoder rows, over the same rows: "
        "large where some features are near copies of others",
    ),
    Metric(
        "effective_rank", "effective rank", "dimensions", "none",
        "exponential of the entropy of the normalised singular values of the decoder, with rows of "
        "unit norm",
    ),
    Metric(
        "encoder_alignment", "alignment of encoder and decoder", "", "none",
        "mean over features of the cosine of their encoder column and decoder row",
    ),
    Metric(
        "nth_projection", "n-th decoder projection", "", "min",
        "mean over up to 256 activations of the n-th largest absolute projection of x - b_dec on "
        "decoder rows of unit norm, divided by the norm of x - b_dec, where n is half the number "
        "of rows (s_n^dec of arXiv 2508.16560)",
    ),
]  # fmt: skip


def _of_tasks(
    over: Over, key: str, numerator: Terms, title: str, direction: Direction, definition: str
) -> Metric:
    return Metric(
        key, title, "" if "auc" in key else "fraction", direction, definition, numerator,
        {"n_tasks": 1.0}, over=over,
    )  # fmt: skip


_PROBED = (
    "mean over the probing tasks that a probe on the activations themselves solves (AUC of 0.75 or "
    "more), on examples that probes were not fitted to"
)
_DONE = "mean over the templated tasks that the model itself can do"
_SUMS_OF_TASKS = [
    *(
        _of_tasks(
            "probes", f"probe_{what.lower()}_k{k}", {f"{what.lower()}_k{k}": 1.0},
            f"probe {what}, {k} latent{'s' if k > 1 else ''}", "max",
            f"{what} of logistic regression on the {k} latents whose class means differ most: "
            f"{_PROBED}",
        )
        for what in ("AUC", "accuracy")
        for k in PROBE_KS
    ),
    *(
        _of_tasks(
            "probes", f"probe_{what.lower()}_dense", {f"{what.lower()}_dense": 1.0},
            f"probe {what}, activations", "none",
            f"{what} of logistic regression on the activations themselves: {_PROBED}",
        )
        for what in ("AUC", "accuracy")
    ),
    _of_tasks(
        "behaviour", "task_accuracy", {"right_spliced": 1.0}, "task accuracy", "max",
        f"fraction of examples that the model gets right with x replaced by x_hat: {_DONE}",
    ),
    _of_tasks(
        "behaviour", "task_accuracy_clean", {"right_clean": 1.0}, "task accuracy, clean", "none",
        f"fraction of examples that the model gets right with nothing replaced: {_DONE}",
    ),
    _of_tasks(
        "behaviour", "task_accuracy_lost", {"right_clean": 1.0, "right_spliced": -1.0},
        "task accuracy lost", "min", "task_accuracy_clean - task_accuracy",
    ),
]  # fmt: skip
_NUMBERS_OF_TASKS = [
    Metric(
        "probe_tasks", "probing tasks", "tasks", "none",
        "number of probing tasks that a probe on the activations themselves solves",
        over="probes",
    ),
    Metric(
        "behaviour_tasks", "templated tasks", "tasks", "none",
        "number of templated tasks that the model itself can do", over="behaviour",
    ),
]  # fmt: skip

_ALL = [
    _mean("l0", "l0", "L0", "features", "min", "number of a_i != 0 per token"),
    _mean(
        "l1", "l1", "L1", "activation", "min",
        "sum of |a_i| norm(W_dec_i): invariant under rescaling a decoder row",
    ),
    _mean("l1_raw", "l1_raw", "L1 (raw)", "activation", "min", "sum of |a_i|"),
    _mean(
        "sqrt_l1", "sqrt_l1", "sqrt-L1", "sqrt(activation)", "min",
        "sum of sqrt(|a_i| norm(W_dec_i)): invariant under rescaling a decoder row; the penalty "
        "sqrt_l1 of training is smoothed at zero instead, sum of sqrt(|a_i| + 1e-4) - 0.01 with "
        "a_i in training units",
    ),
    _mean(
        "sqrt_l1_raw", "sqrt_l1_raw", "sqrt-L1 (raw)", "sqrt(activation)", "min",
        "sum of sqrt(|a_i|)",
    ),
    _mean(
        "mse", "squared_error", "MSE", "activation²", "min",
        "squared L2 norm of x - x_hat, summed over d_in",
    ),
    Metric(
        "nmse", "normalised MSE", "fraction", "min",
        "mse divided by the mean squared distance of x from its mean over the counted positions",
        {"squared_error": 1.0}, {"squared_deviation": 1.0},
    ),
    Metric(
        "explained_variance", "explained variance", "fraction", "max",
        "1 - nmse, pooled over all positions",
        {"squared_error": 1.0}, {"squared_deviation": 1.0}, scale=-1.0, offset=1.0,
    ),
    Metric(
        "explained_variance_legacy", "explained variance, legacy", "fraction", "none",
        "mean over tokens of 1 - norm(x - x_hat)^2 / norm(x - mean(x))^2, on up to 256 activations "
        "and about their mean: what SAEBench's paper and Neuronpedia show by this name; it depends "
        "on the batch and has no lower bound",
        {"error_ratio": 1.0}, {"n_ratios": 1.0}, scale=-1.0, offset=1.0,
    ),
    _mean(
        "cosine_similarity", "cosine_similarity", "cosine similarity", "", "max",
        "mean over tokens of the cosine of x and x_hat",
    ),
    _mean(
        "l2_ratio", "norm_ratio", "L2 ratio", "", "none",
        "mean over tokens of norm(x_hat) / norm(x)",
    ),
    Metric(
        "relative_reconstruction_bias", "relative reconstruction bias", "", "none",
        "sum of norm(x_hat)^2 divided by sum of x_hat . x (arXiv 2404.16014, eq. 10); "
        "below 1 means shrinkage",
        {"x_hat_squared": 1.0}, {"x_hat_dot_x": 1.0},
    ),
    Metric(
        "skip_explained_variance", "variance explained by the skip", "fraction", "none",
        "explained variance of a transcoder's skip connection and decoder bias alone, with every "
        "feature off; undefined without a skip connection",
        {"squared_skip_error": 1.0}, {"squared_deviation": 1.0}, scale=-1.0, offset=1.0,
    ),
    _mean(
        "ce_clean", "ce_clean", "CE, clean", "nats", "none",
        "next-token cross-entropy of the language model with nothing replaced",
    ),
    _mean(
        "ce_spliced", "ce_spliced", "CE, spliced", "nats", "min",
        "next-token cross-entropy with x replaced by x_hat at the counted positions",
    ),
    _mean(
        "ce_zero", "ce_zero", "CE, zero ablation", "nats", "none",
        "next-token cross-entropy with x replaced by zero at the counted positions",
    ),
    _mean(
        "ce_mean", "ce_mean", "CE, mean ablation", "nats", "none",
        "next-token cross-entropy with x replaced, at the counted positions, by its mean over them",
    ),
    Metric(
        "ce_degradation", "CE degradation", "nats", "min", "ce_spliced - ce_clean",
        {"ce_spliced": 1.0, "ce_clean": -1.0}, {"n_next": 1.0},
    ),
    Metric(
        "bits_lost", "bits lost", "bits", "min", "ce_degradation / ln 2",
        {"ce_spliced": 1.0, "ce_clean": -1.0}, {"n_next": 1.0}, scale=1 / math.log(2),
    ),
    _recovered("ce_recovered_zero", "ce_zero", "zero"),
    _recovered("ce_recovered_mean", "ce_mean", "mean"),
    _mean(
        "kl", "kl", "KL divergence", "nats", "min",
        "KL(clean next-token distribution, spliced one)",
    ),
    Metric(
        "dead_fraction", "dead features", "fraction", "min",
        "fraction of features that never fired on the evaluated tokens; it depends on their "
        "number, which is stored with the result",
    ),
    Metric(
        "dense_fraction", "dense features", "fraction", "min",
        "fraction of features that fired on more than a tenth of the evaluated tokens",
    ),
    _violation(
        "additivity", "additivity_gap", "additivity_size",
        "sum of |f_i(v1) + f_i(v2) - f_i(v1 + v2)| divided by that of f_i(v1) + f_i(v2), weighted "
        "by norm(W_dec_i), over features active in both; f(v) = encode(v + b_dec), on pairs of "
        "activations of up to 128 sequences",
    ),
    _violation(
        "homogeneity", "homogeneity_gap", "homogeneity_size",
        "sum of |f_i(k v) - k f_i(v)| divided by that of k f_i(v), weighted by norm(W_dec_i), over "
        "active features and k = 1.25, 2, 4; f and activations as for additivity",
    ),
    _violation(
        "threshold", "threshold_missing", "threshold_needed",
        "fraction of active features with a negative bias whose response to growing multiples of v "
        "is not zero up to a threshold and positive beyond it; activations as for additivity",
    ),
    *GEOMETRY,
    *_TRUTH,
    *_SUMS_OF_TASKS,
    *_NUMBERS_OF_TASKS,
    Metric(
        "bias_negative_fraction", "negative encoder biases", "fraction", "none",
        "fraction of features whose encoder bias is below zero",
    ),
]  # fmt: skip

METRICS: dict[str, Metric] = {metric.key: metric for metric in _ALL}
"""Every metric by its key."""

# Names of metrics in other tools; case, spaces, hyphens and underscores are ignored.
_ALIASES = {
    "fvu": "nmse",
    "fraction of variance unexplained": "nmse",
    "normalised mse": "nmse",
    "normalized mse": "nmse",
    "ev": "explained_variance",
    "fve": "explained_variance",
    "r2": "explained_variance",
    "variance explained": "explained_variance",
    "loss recovered": "ce_recovered_zero",
    "ce loss score": "ce_recovered_zero",
    "ce recovered": "ce_recovered_zero",
    "frac recovered": "ce_recovered_zero",
    "ce loss increase": "ce_degradation",
    "delta ce": "ce_degradation",
    "ce loss with sae": "ce_spliced",
    "ce loss without sae": "ce_clean",
    "ce loss with ablation": "ce_zero",
    "kl div": "kl",
    "kl divergence": "kl",
    "cossim": "cosine_similarity",
    "gamma": "relative_reconstruction_bias",
    "dead": "dead_fraction",
}


def metric_key(name: str, subject: str = "") -> str:
    """The key of a metric by any of its names: ``L0``, ``fvu``, ``CE degradation``.

    Args:
        name: the name as a user writes it.
        subject: the option that it is given to, for the error.

    Raises:
        UsageError: if no metric has the name; the error suggests similar names.
    """
    if not isinstance(name, str):
        raise UsageError(subject or "a metric", f"{name!r} is not text", "see `prolu-eval metrics`")
    if name in METRICS:
        return name
    known = {
        **{plain(metric.title): key for key, metric in METRICS.items()},
        **{plain(alias): key for alias, key in _ALIASES.items()},
        **{plain(key): key for key in METRICS},
    }
    if (key := known.get(plain(name))) is not None:
        return key
    reason = f"{name!r} is not a metric" if subject else "is not a metric"
    meant = dict.fromkeys(known[found] for found in near(name, known))
    remedy = writing(meant, "see `prolu-eval metrics`")
    raise UsageError(subject or name, reason, remedy)


def improves_with_tokens(metric: Metric) -> bool:
    """Whether a metric's uncertainty falls with every further token that is evaluated.

    Other metrics follow from the weights, or are measured once at the end of an evaluation.
    """
    return measured_by(metric, COLUMNS)


def measured_by(metric: Metric, sums: Collection[str]) -> bool:
    """Whether a metric can be computed from sums of these columns of its own units."""
    return bool(metric.numerator) and {*metric.numerator, *metric.denominator} <= set(sums)
