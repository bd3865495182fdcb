"""The first cell on Colab: adds to its Python what is missing, and changes nothing there."""

import os
import shutil
import sys
import tempfile
import urllib.request
from pathlib import Path

ARCHIVE = "https://github.com/OWNER/REPOSITORY/archive/refs/heads/main.zip"
SUITE = Path.home() / "llama-notebooks"

if not SUITE.exists():
    with tempfile.TemporaryDirectory(dir=SUITE.parent) as folder:
        archive = Path(folder) / "suite.zip"
        urllib.request.urlretrieve(os.environ.get("LLAMA_NOTEBOOKS_ARCHIVE", ARCHIVE), archive)
        shutil.unpack_archive(archive, Path(folder) / "suite")
        next((Path(folder) / "suite").iterdir()).rename(SUITE)
sys.path.insert(0, str(SUITE))
os.chdir(SUITE / "notebooks")

from helpers.install.guest import join  # noqa: E402

join("documents", "serve")

from helpers import LlamaCpp, default_model  # noqa: E402

print(LlamaCpp(model_path=default_model(), max_tokens=8).invoke("The capital of France is"))
