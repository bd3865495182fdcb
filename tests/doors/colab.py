"""The first cell in a Python like Colab's: `python -m tests.doors.colab [WHEEL]`.

A bare environment gets Colab's versions of what the suite uses, for real, and stand-ins (metadata
alone) for its other packages, torch among them. Then the cell of `.colab` runs with an archive of
the tree, and nothing that was there may have changed. WHEEL is a wheel of llama-cpp-python that an
index offers, as on Colab; without one it is built, in minutes. `tests/doors/data/plan_*.json` are
written anew.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).parent / "data"
REAL = (
    "httpx", "huggingface-hub", "ipykernel", "ipywidgets", "jinja2", "jsonschema", "langchain-core",
    "matplotlib", "numpy", "pandas", "pip", "psutil", "pydantic", "tqdm",
)  # fmt: skip
_VERSIONS = (
    "import json; from importlib.metadata import distributions as d;"
    "print(json.dumps({x.name.lower().replace('_', '-'): x.version for x in d()}))"
)
_ASK = """
from helpers import LlamaCpp, default_model
print(LlamaCpp(model_path=default_model(), max_tokens=4, temperature=0).invoke("The capital of"))
"""
_CELLS = """
import sys, json, pathlib
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in json.loads(pathlib.Path(sys.argv[1]).read_text("utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        shell.run_cell("".join(cell["source"])).raise_error()
"""


def stand_in(packages: Path, name: str, version: str) -> None:
    """Make a distribution that pip and `importlib.metadata` see, and that has no files."""
    folder = packages / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (folder / "METADATA").write_text(text, encoding="utf-8")
    (folder / "RECORD").write_text("", encoding="utf-8")
    (folder / "INSTALLER").write_text("pip\n", encoding="utf-8")


class Bare:
    """A bare environment in a folder of its own, with its own home."""

    def __init__(self, room: Path, wheel: Path | None) -> None:
        self.home, self.wheels = room / "home", room / "whl"
        self.home.mkdir(parents=True)
        subprocess.run([_python(), "-m", "venv", room / "venv"], check=True)
        self.python = room / "venv" / "bin" / "python"
        self.packages = next((room / "venv" / "lib").glob("python3*")) / "site-packages"
        if wheel is not None:
            page = self.wheels / "cpu" / "llama-cpp-python" / "index.html"
            page.parent.mkdir(parents=True)
            page.write_text(f'<a href="{wheel.as_uri()}">{wheel.name}</a>', encoding="utf-8")

    def run(self, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        """Run its Python; what it prints is shown as well."""
        env = {**os.environ, "HOME": str(self.home), **more}
        env |= {"PIP_CACHE_DIR": str(Path.home() / ".cache" / "pip")}
        env |= {"LLAMA_NOTEBOOKS_WHEEL_INDEX": self.wheels.as_uri(), "OMP_WAIT_POLICY": "passive"}
        env = {k: v for k, v in env.items() if k not in {"PYTHONPATH", "LLAMA_NOTEBOOKS_CACHE"}}
        command = [str(self.python), *map(str, arguments)]
        done = subprocess.run(command, cwd=self.home, env=env, capture_output=True, text=True)
        print(done.stdout[-3000:], done.stderr[-3000:], flush=True)
        return done

    def versions(self) -> dict[str, str]:
        """What is installed."""
        done = subprocess.run([self.python, "-c", _VERSIONS], capture_output=True, check=True)
        return dict(json.loads(done.stdout))


def _python() -> str:
    """Python 3.13, as Colab has, where there is one that starts; else this one."""
    found = shutil.which("python3.13")
    starts = found and subprocess.run([found, "-V"], capture_output=True).returncode == 0
    return found if found and starts else sys.executable


def record(bare: Bare, name: str) -> None:
    """Keep what pip planned there: names and versions alone."""
    done = bare.run(
        *("-m", "pip", "install", "--quiet", "--dry-run", "--report", bare.home / "plan.json"),
        *("-e", f"{bare.home / 'llama-notebooks'}[documents,serve]"),
    )
    assert done.returncode == 0
    plan: dict[str, Any] = json.loads((bare.home / "plan.json").read_text(encoding="utf-8"))
    plan["install"] = [
        {"metadata": {key: one["metadata"][key] for key in ("name", "version")}}
        for one in plan["install"]
    ]
    text = json.dumps({key: plan[key] for key in ("version", "pip_version", "install")}, indent=1)
    (DATA / f"plan_{name}.json").write_text(text + "\n", encoding="utf-8")


def main(wheel: Path | None) -> None:
    """Run it all; the first thing that is wrong ends it."""
    room = Path(tempfile.mkdtemp())
    colab = dict(
        line.split("==")
        for line in (DATA / "colab.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
    archive = room / "suite.zip"
    subprocess.run(
        ["git", "archive", "--prefix=suite-main/", "-o", archive, "HEAD"], cwd=ROOT, check=True
    )
    cell, shown = ROOT / ".colab" / "first_cell.py", {"LLAMA_NOTEBOOKS_ARCHIVE": archive.as_uri()}

    bare = Bare(room / "colab", wheel)
    wanted = [f"{name}=={colab[name]}" for name in REAL]
    done = bare.run("-m", "pip", "install", "-q", "-c", DATA / "colab.txt", *wanted)
    assert done.returncode == 0
    for name in colab.keys() - bare.versions().keys():
        stand_in(bare.packages, name, colab[name])
    before = bare.versions()
    shutil.unpack_archive(archive, room / "unpacked")
    shutil.move(room / "unpacked" / "suite-main", bare.home / "llama-notebooks")
    record(bare, "colab")
    shutil.rmtree(bare.home / "llama-notebooks")
    done = bare.run(cell, **shown)
    assert done.returncode == 0 and done.stdout.strip(), "the cell failed"
    after = bare.versions()
    assert {name: after.get(name) for name in before} == before, "something has changed"
    print("added:", sorted(after.keys() - before.keys()))
    assert bare.run("-c", _ASK).stdout.strip(), "no answer in a new process"
    notebook = bare.home / "llama-notebooks" / "notebooks" / "00_start_here.ipynb"
    assert bare.run("-c", _CELLS, notebook).returncode == 0

    old = Bare(room / "old", wheel)  # a numpy that the suite cannot use
    stand_in(old.packages, "numpy", "1.20.0")
    before = old.versions()
    done = old.run(cell, **shown)
    assert done.returncode and "numpy 1.20.0 -> " in done.stderr, "it was not refused"
    assert old.versions() == before, "something has changed"
    record(old, "old_numpy")
    shutil.rmtree(room)
    print("The first cell passes: nothing changed, an old numpy refused.")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if sys.argv[1:] else None)
