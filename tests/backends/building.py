"""A throw-away environment that holds one backend's llama-cpp-python, built by the table's flags.

The wheel is made exactly as `python -m helpers lab` makes it, but with the flags of the one backend
alone: the suite's own builds add RPC to each, and here the backends are to be told apart. The
environment has nothing of its own but that wheel; all other packages are the suite's, seen through
a `.pth` file, so that making it takes seconds and no network.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

from helpers.errors import InstallError
from helpers.install import build, steps
from helpers.install.backends import BACKENDS, LEAVE_OUT
from helpers.install.commands import get_backend
from helpers.install.environment import read_project
from helpers.install.flags import merge, translate
from helpers.install.paths import (
    REPOSITORY,
    cache_dir,
    current_system,
    make_folder,
    pip_environment,
    site_packages,
    venv_python,
)

# NVIDIA publishes the parts of its toolkit that nvcc's own package lacks.
CUDA_PACKAGES = ("nvidia-cublas<13.1", "nvidia-cuda-runtime<13.1", "nvidia-cuda-cccl<13.1")


@dataclass(frozen=True)
class Built:
    """A wheel, the environment it is installed in, and what making it took."""

    recipe: build.Recipe
    wheel: Path
    python: Path
    packages: Path
    seconds: float
    cached: bool
    library_folders: tuple[Path, ...] = ()

    @property
    def members(self) -> dict[str, int]:
        """Bytes of each shared library in the wheel, by name without version suffixes."""
        with zipfile.ZipFile(self.wheel) as archive:
            return {
                Path(item.filename).name: item.file_size
                for item in archive.infolist()
                if re.search(r"llama_cpp/lib/[^/]+\.(so|dylib|dll)$", item.filename)
            }


def make_recipe(backend: str, extra: tuple[str, ...] = ()) -> build.Recipe:
    """Join the backend's flags, those that this machine needs, and the user's `CMAKE_ARGS`.

    Raises:
        InstallError: If the backend is unknown, or `CMAKE_ARGS` contradicts it.
    """
    users = translate(os.environ.get("CMAKE_ARGS", ""))
    for remark in users.remarks:
        steps.say(f"CMAKE_ARGS: {remark}")
    wanted = (*get_backend(backend).cmake_flags, *LEAVE_OUT, *extra)
    version = read_project(REPOSITORY).version
    return build.Recipe(version, backend, merge(wanted, users.flags, backend))


def _share(name: str, folder: Path) -> None:
    """Let the work folder use what the suite's cache has already: the source, the build tools."""
    theirs, ours = cache_dir() / name, folder / name
    if theirs.exists() and not ours.exists():
        with contextlib.suppress(OSError):  # Windows wants a privilege for links: it copies none
            ours.symlink_to(theirs)


def cuda_from_pip(folder: Path) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """Bring the CUDA headers and libraries that nvcc lacks here, from NVIDIA's pip packages.

    Returns:
        The flags that tell CMake of them, and the folders of the libraries.
    """
    target = folder / "cuda"
    if not (target / "nvidia").exists():
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--target", str(target), *CUDA_PACKAGES],
            env=pip_environment(),
            check=False,
        )
        if done.returncode:
            raise InstallError(f"pip could not fetch {', '.join(CUDA_PACKAGES)}")
    headers = sorted({path.parent for path in target.rglob("include/cublas_v2.h")})
    libraries = {path.name.split(".so")[0]: path for path in sorted(target.rglob("*.so.*"))}
    if not headers or not {"libcublas", "libcublasLt"} <= libraries.keys():
        raise InstallError(f"{', '.join(CUDA_PACKAGES)} brought no cublas into {target}")
    flags = (
        f"-DCUDA_cublas_LIBRARY={libraries['libcublas']}",
        f"-DCUDA_cublasLt_LIBRARY={libraries['libcublasLt']}",
        f"-DCMAKE_CUDA_FLAGS=-I{headers[0]}",
        "-DCMAKE_CUDA_ARCHITECTURES=90",
        "-DGGML_CUDA_NO_VMM=ON",  # else libcuda, the driver's own library, must be there to link
    )
    return flags, tuple(sorted({path.parent for path in libraries.values()}))


def build_in(folder: Path, backend: str, *flags: str) -> Built:
    """Build the wheel in `folder` (or take the one that is there) and install it.

    Args:
        folder: Where to work.
        backend: Name in `BACKENDS`.
        *flags: Further flags.

    Raises:
        InstallError: With what is missing, or the log's last words.
    """
    make_folder(folder, "the build")
    for name in ("sdist", "tools-{}.{}".format(*sys.version_info[:2])):
        _share(name, folder)
    extra: tuple[str, ...] = flags
    library_folders: tuple[Path, ...] = ()
    if backend == "cuda" and shutil.which("nvcc") and not shutil.which("nvidia-smi"):
        needed, library_folders = cuda_from_pip(folder)
        extra = (*flags, *needed)
    recipe = make_recipe(backend, extra)
    note = folder / f"seconds-{recipe.key}.json"
    fresh = build.cached_wheel(recipe, folder) is None
    started = time.monotonic()
    wheel = build.build_wheel(recipe, folder)
    if fresh:
        took = {
            "seconds": time.monotonic() - started,
            # ccache makes a second build of the same files take seconds: a reader must know.
            "compiler_cache": bool(shutil.which("ccache")) and "CCACHE_DISABLE" not in os.environ,
        }
        note.write_text(json.dumps(took), encoding="utf-8")
    took = json.loads(note.read_text(encoding="utf-8"))
    where = folder / f"venv-{backend}-{recipe.key}"
    python = install(wheel, where)
    return Built(
        recipe,
        wheel,
        python,
        site_packages(where),
        float(took["seconds"]),
        bool(took["compiler_cache"]),
        library_folders,
    )


def install(wheel: Path, where: Path) -> Path:
    """Make an environment that sees this environment's packages, with `wheel` in front of them."""
    venv.EnvBuilder(clear=True, symlinks=current_system() != "windows").create(where)
    python, packages = venv_python(where), site_packages(where)
    ours = site_packages(Path(sys.prefix))
    # addsitedir, unlike a plain line, also reads the .pth files there: the editable `helpers`.
    line = f"import site; site.addsitedir({str(ours)!r})\n"
    (packages / "suite.pth").write_text(line, encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q"]
    command += ["--no-deps", "--no-index", "--force-reinstall", str(wheel)]
    done = subprocess.run(
        command, env=pip_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode or not (packages / "llama_cpp").is_dir():
        raise InstallError(f"{wheel.name} cannot be installed: {done.stderr.strip()[-300:]}")
    return python


def missing_libraries(built: Built) -> tuple[str, ...]:
    """Return the stems of libraries that the backend promises and the wheel does not hold."""
    names = " ".join(built.members)
    wanted = BACKENDS[built.recipe.backend].libraries
    return tuple(stem for stem in wanted if not re.search(rf"\b(lib)?{stem}\.", names))
