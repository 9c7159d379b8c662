"""The values that options may have, each defined once, in a module that imports nothing."""

from typing import Literal

Split = Literal["train", "heldout", "all"]
Packing = Literal["concatenate", "separate"]
SpecialTokens = Literal["exclude", "include"]
Dtype = Literal["float32", "tf32", "bfloat16", "float16", "float64"]
DtypeChoice = Literal[Dtype, "auto"]
