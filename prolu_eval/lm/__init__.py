"""Language models: capture a hook point, splice a replacement in, resume from there.

TransformerLens finds the architecture and names its hook points: its bridge translates a hook name
into the Hugging Face module that computes it. The passes themselves run the Hugging Face model as
it is, with the attention it chooses (SDPA wherever the architecture allows), and a resumed pass
turns the blocks before the hook into pass-throughs (TransformerLens's own ``start_at_layer`` still
runs them, and its bridge forces eager attention). Passes end at the final hidden states;
:meth:`LanguageModel.logits` turns as many of those into logits as are wanted at a time.
"""

from prolu_eval.lm.loading import official_name
from prolu_eval.lm.model import LanguageModel
from prolu_eval.lm.pair import ModelPair
from prolu_eval.lm.passes import Pass
from prolu_eval.lm.source import ActivationSource

__all__ = ["ActivationSource", "LanguageModel", "ModelPair", "Pass", "official_name"]
