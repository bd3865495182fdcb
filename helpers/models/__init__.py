"""Models: which file, is it whole, what is in it, how it wants to be asked.

>>> from helpers import find_model, inspect_model
>>> print(inspect_model(find_model("default")))
model          Smollm2 135M ...
...
quantization   Q4_1, 5.74 bits per weight
...
"""

from helpers.models.catalogue import CATALOGUE, CatalogueEntry
from helpers.models.check import check_model_file
from helpers.models.default import default_model
from helpers.models.embedding_catalogue import EMBEDDING_MODELS, embedding_models
from helpers.models.find import find_model
from helpers.models.header import Tensor
from helpers.models.info import ModelInfo, inspect_model
from helpers.models.prompt import PLAIN_TEMPLATE, format_prompt
from helpers.models.recommendation import Recommendation, metal_mib, recommend
from helpers.models.stores import LocalModel, local_models

__all__ = [
    "CATALOGUE",
    "EMBEDDING_MODELS",
    "PLAIN_TEMPLATE",
    "CatalogueEntry",
    "LocalModel",
    "ModelInfo",
    "Recommendation",
    "Tensor",
    "check_model_file",
    "default_model",
    "embedding_models",
    "find_model",
    "format_prompt",
    "inspect_model",
    "local_models",
    "metal_mib",
    "recommend",
]
