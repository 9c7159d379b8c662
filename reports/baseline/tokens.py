"""Writes tokens.npy, the tokens that the fixed autoencoders are evaluated on.

The file has token ids rather than text, because the embedded model's own text, the standard
library, differs between versions of Python, and a baseline needs the same tokens everywhere.
"""

from pathlib import Path

import numpy as np

from prolu_eval.lm import LanguageModel
from prolu_eval.runs import EMBEDDED_MODEL
from prolu_eval.tokens import load_tokens

N_TOKENS, CONTEXT_LENGTH = 32_768, 128

if __name__ == "__main__":
    model = LanguageModel.load(EMBEDDED_MODEL, device="cpu")
    rows = load_tokens(
        EMBEDDED_MODEL, model, split="heldout", n_tokens=N_TOKENS, context_length=CONTEXT_LENGTH
    )
    np.save(Path(__file__).parent / "tokens.npy", rows.ids.numpy().astype(np.uint16))
