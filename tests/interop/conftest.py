"""Settings of the other libraries that must be made before they are imported."""

import os

# sparsify decodes by Triton wherever Triton can be imported, and Triton needs a GPU.
os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
