"""The effect of TransformerLens 3's weight processing on activations, shown on its own model."""

import torch
import transformers


def test_openais_processing_leaves_the_activations_at_its_hooks_as_they_are() -> None:
    """So its weight_processing is "none", though all but the writing weights' centring is on."""
    from transformer_lens import HookedTransformer
    from transformer_lens.loading_from_pretrained import convert_gpt2_weights

    torch.manual_seed(0)
    hf = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=2, n_head=2)
    ).eval()
    for parameter in hf.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    hooks = ("hook_attn_out", "hook_resid_mid", "mlp.hook_post", "hook_mlp_out", "hook_resid_post")
    seen = {}
    for processed, centred in ((False, False), (True, False), (True, True)):
        model = HookedTransformer(
            {
                "n_layers": 2, "d_model": 8, "n_ctx": 16, "d_head": 4, "n_heads": 2, "d_mlp": 32,
                "d_vocab": 50, "act_fn": "gelu_new", "normalization_type": "LN",
            }
        )  # fmt: skip
        model.load_and_process_state_dict(
            convert_gpt2_weights(hf, model.cfg),
            fold_ln=processed,
            center_writing_weights=centred,
            center_unembed=processed,
            fold_value_biases=processed,
        )
        _, cache = model.run_with_cache(torch.arange(12)[None])
        seen[processed, centred] = torch.cat([cache[f"blocks.1.{h}"].flatten() for h in hooks])
    torch.testing.assert_close(seen[True, False], seen[False, False], rtol=1e-4, atol=1e-4)
    assert (seen[True, True] - seen[False, False]).abs().max() > 0.01
