"""Options for the tests' engines: the embedded model with a small context."""

from __future__ import annotations

from typing import Any

from helpers.engine import LoadOptions
from helpers.models import default_model


def options(**changes: Any) -> LoadOptions:
    return LoadOptions(**{"model_path": str(default_model()), "n_ctx": 1024, **changes})
