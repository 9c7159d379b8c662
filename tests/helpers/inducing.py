"""A handmade language model that predicts the token that followed the current one before.

Its residual stream has four parts side by side, each with one number for every token or position:
the token, its position, the token before it (written by the first block's attention), and the token
that followed it the last time (written by the second block's attention, and read out).
"""

from pathlib import Path

import torch
import transformers

N_TOKENS, N_POSITIONS = 32, 40
WIDTH = 3 * N_TOKENS + N_POSITIONS
TOKEN = slice(0, N_TOKENS)
POSITION = slice(N_TOKENS, N_TOKENS + N_POSITIONS)
BEFORE = slice(N_TOKENS + N_POSITIONS, 2 * N_TOKENS + N_POSITIONS)
NEXT = slice(2 * N_TOKENS + N_POSITIONS, WIDTH)
# Attention scores are multiplied by this, so that each token attends to only one other.
_SHARP = 30.0


def save_inducing(folder: Path) -> Path:
    """Write the model, without a tokenizer, to a folder."""
    config = transformers.GPT2Config(
        vocab_size=N_TOKENS, n_positions=N_POSITIONS, n_embd=WIDTH, n_layer=2, n_head=2, n_inner=8,
        bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    for name, parameter in model.named_parameters():
        torch.nn.init.constant_(parameter, float(".ln_" in name and name.endswith("weight")))
    torch.nn.init.ones_(model.transformer.ln_f.weight)
    tokens, positions = torch.eye(N_TOKENS), torch.eye(N_POSITIONS)
    with torch.no_grad():
        model.transformer.wte.weight[:, TOKEN] = tokens
        model.transformer.wpe.weight[:, POSITION] = positions
        model.lm_head.weight[:, NEXT] = tokens
        first, second = (block.attn for block in model.transformer.h)
        # The first block looks for the position before its own.
        first.c_attn.weight[POSITION, :N_POSITIONS] = _SHARP * positions.roll(-1, 1)
        first.c_attn.weight[POSITION, WIDTH : WIDTH + N_POSITIONS] = positions
        # The second block looks for the position after its own token's earlier occurrence.
        second.c_attn.weight[TOKEN, :N_TOKENS] = _SHARP * tokens
        second.c_attn.weight[BEFORE, WIDTH : WIDTH + N_TOKENS] = tokens
        for attention, written in ((first, BEFORE), (second, NEXT)):
            attention.c_attn.weight[TOKEN, 2 * WIDTH : 2 * WIDTH + N_TOKENS] = tokens
            attention.c_proj.weight[:N_TOKENS, written] = tokens
    model.save_pretrained(folder)
    return folder
