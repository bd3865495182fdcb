"""Models: which file, is it whole, what is in it, how it wants to be asked.

>>> from helpers import default_model, inspect_model
>>> print(inspect_model(default_model()))  # doctest: +SKIP
"""

from helpers.models._check import check_model_file
from helpers.models._default import default_model
from helpers.models._info import ModelInfo, inspect_model
from helpers.models._prompt import format_prompt

__all__ = ["ModelInfo", "check_model_file", "default_model", "format_prompt", "inspect_model"]
