"""Language models: capture a hook point, splice a replacement in, resume from there.

TransformerLens recognises the architecture and names its hook points: its bridge translates a hook
name into the Hugging Face module that computes it. The passes run the Hugging Face model as it is,
with the attention that it chooses (SDPA wherever the architecture allows). A resumed pass skips the
blocks before the hook: each of them only returns a given residual stream. TransformerLens itself is
not used for passes, because its ``start_at_layer`` still runs those blocks and its bridge forces
eager attention. Passes end at the final hidden states; :meth:`LanguageModel.logits` computes
logits from them, for as many positions at a time as the caller wants.
"""

from prolu_eval.lm.loading import official_name
from prolu_eval.lm.model import LanguageModel
from prolu_eval.lm.pair import ModelPair
from prolu_eval.lm.passes import Pass
from prolu_eval.lm.source import ActivationSource

__all__ = ["ActivationSource", "LanguageModel", "ModelPair", "Pass", "official_name"]
