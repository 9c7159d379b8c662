"""Autoencoders of every variant with random weights, biases, thresholds and scales."""

from typing import Any

import torch

from prolu_eval.saes import VARIANTS, Normalisation, SparseAutoencoder

D_IN, D_SAE = 8, 16

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("relu", {}),
    ("prolu", {}),
    ("prolu", {"gradient": "ste_bias_only", "estimator": "triangle", "bandwidth": 0.5}),
    ("prolu_relu_hybrid", {"gradient": "relu"}),
    ("trec", {"theta": 0.75}),
    ("trec", {"theta": 0.5, "tied": True}),
    ("tlin", {"theta": 0.75}),
    ("tlin", {"theta": 0.5, "tied": True}),
    ("jumprelu", {}),
    ("gated", {}),
    ("topk", {"k": 3}),
    ("topk", {"k": 12, "rectify": False}),
    ("abstopk", {"k": 3}),
    ("groupmax", {"k": 4}),
    ("batchtopk", {"k": 2.5}),
    ("matryoshka", {"k": 3, "group_sizes": (4, 12)}),
    ("matching_pursuit", {"residual_threshold": 0.5, "max_iterations": 4}),
    ("tanh_relu", {}),
    ("nnls", {"penalty": 0.5}),
]


def random_sae(
    variant: str,
    options: dict[str, Any],
    seed: int,
    *,
    apply_b_dec_to_input: bool = True,
    normalisation: Normalisation = "none",
) -> Any:
    """An autoencoder whose decoder rows are not of unit norm, ready for evaluation."""
    cls = VARIANTS[variant]
    sae: SparseAutoencoder = cls(
        D_IN,
        D_SAE,
        cls.Options.model_validate(options),
        apply_b_dec_to_input=apply_b_dec_to_input,
        normalisation=normalisation,
    )
    torch.manual_seed(seed)
    for name, parameter in sae.named_parameters():
        spread = 0.3 if name.startswith(("b_", "r_")) else 1.0
        parameter.data = spread * torch.randn_like(parameter)
        if name == "threshold":
            parameter.data = 0.1 + parameter.data.abs()
        elif name == "W_dec" and variant == "matching_pursuit":
            parameter.data /= parameter.data.norm(dim=1, keepdim=True)
    return sae.eval().requires_grad_(False)
