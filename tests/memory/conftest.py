"""The builders of small and sparse GGUF files are shared with the tests of `helpers.models`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))
