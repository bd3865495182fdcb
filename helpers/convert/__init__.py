"""Make one model file from another, and judge what that did to the model.

>>> from helpers import default_model, perplexity, quantize
>>> smaller = quantize(default_model(), "Q4_0", "small.gguf", allow_requantize=True)
... # doctest: +SKIP
>>> perplexity(smaller, "The sun rises in the east.")  # doctest: +SKIP

llama.cpp's own code does the work, in a child process: whatever ends that one, the kernel lives on.
"""

from helpers.convert.ggml import convert_ggml
from helpers.convert.practice import practice_ggml
from helpers.convert.quantization import Quantized, quantize
from helpers.convert.scores import log_probabilities, perplexity

__all__ = [
    "Quantized",
    "convert_ggml",
    "log_probabilities",
    "perplexity",
    "practice_ggml",
    "quantize",
]
