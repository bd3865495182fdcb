"""Models: which file, is it whole, what is in it, how it wants to be asked.

>>> from helpers import find_model, inspect_model
>>> print(inspect_model(find_model("default")))  # doctest: +SKIP
"""

from helpers.models._check import check_model_file
from helpers.models._default import default_model
from helpers.models._find import find_model
from helpers.models._header import Tensor
from helpers.models._info import ModelInfo, inspect_model
from helpers.models._prompt import format_prompt
from helpers.models._recommend import Recommendation, recommend
from helpers.models._stores import LocalModel, local_models
from helpers.models.catalogue import CATALOGUE, CatalogueEntry

__all__ = [
    "CATALOGUE",
    "CatalogueEntry",
    "LocalModel",
    "ModelInfo",
    "Recommendation",
    "Tensor",
    "check_model_file",
    "default_model",
    "find_model",
    "format_prompt",
    "inspect_model",
    "local_models",
    "recommend",
]
