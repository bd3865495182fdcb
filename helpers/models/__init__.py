"""Models: which file, is it whole, what is in it.

>>> from helpers import default_model, inspect_model
>>> print(inspect_model(default_model()))  # doctest: +SKIP
"""

from helpers.models._check import check_model_file
from helpers.models._default import default_model
from helpers.models._info import ModelInfo, inspect_model

__all__ = ["ModelInfo", "check_model_file", "default_model", "inspect_model"]
