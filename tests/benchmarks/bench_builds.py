"""Which build of llama.cpp is fastest here: `python -m tests.benchmarks.bench_builds [--quick]`.

`--wide` measures the types of a model with wide rows alone, and puts them into the same file.

Builds variants of the installed llama.cpp from the source that the environment was made from,
measures each with several quantizations of the embedded model, and single settings with the default
build. Builds, models and settings alternate; each figure is a median over rounds, kept with all of
them. A measurement runs in a process of its own, in which llama-cpp-python finds that build.

Writes `notebooks/data/builds_<processor>.json`: no paths, no names of machines.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tarfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from helpers import quantize
from helpers.bench.table import describe_machine
from helpers.install.backends import BACKENDS, COMMON_FLAGS
from helpers.install.paths import cache_dir
from helpers.models import default_model
from tests.models.gguf_builders import tiny_llama

DATA = Path(__file__).parents[2] / "notebooks" / "data"
TYPES = ("Q4_0", "Q4_1", "Q4_K_M", "Q8_0", "F16")
LENGTHS = (32, 128, 512)
WIDE = ("Q4_0", "Q4_1", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16")
"""Types of a model whose rows of 2,048 K-quants divide, as they do those of models from 1B on: of
the embedded one's 576 they do not."""
ROWS = "rows of 2048"
CHECKED = (20, 70, 200, 600, 1500)
_OTHERS = (
    "-DBUILD_SHARED_LIBS=ON", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_TOOLS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF",
)  # fmt: skip
# OpenBLAS takes the kernels that these name instead of the processor's own.
_NOT_IN_CHILDREN = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")

BUILDS: dict[str, tuple[str, ...]] = {
    "cpu": (),
    "any processor": ("-DGGML_NATIVE=off",),
    "openblas": BACKENDS["openblas"].cmake_flags,
    "openblas from PyPI": BACKENDS["openblas"].cmake_flags,
}
"""CMake's flags of each build, beside those that all have."""

SETTINGS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "default": ({}, {}),
    "n_threads=1": ({"n_threads": 1}, {}),
    "n_threads_batch=1": ({"n_threads_batch": 1}, {}),
    "n_ubatch=128": ({"n_ubatch": 128}, {}),
    "OMP_WAIT_POLICY=passive": ({}, {"OMP_WAIT_POLICY": "passive"}),
    "use_mmap=False": ({"use_mmap": False}, {}),
    "huge pages": ({"use_mmap": False}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}),
}
"""Options and environment of what is measured with the default build alone."""

BLAS_SETTINGS: dict[str, dict[str, str]] = {
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "OPENBLAS_NUM_THREADS=1": {"OPENBLAS_NUM_THREADS": "1"},
}
"""Environment of what is measured with the builds that have OpenBLAS: its threads and those of
OpenMP, which spin while they wait, share the processor's cores."""


# -- building -------------------------------------------------------------------------------------


def build(name: str, folder: Path) -> Path:
    """Build one variant, or find it built; returns the folder of its libraries."""
    out = folder / re.sub(r"\W+", "-", name)
    if (out / "done").exists():
        return out / "bin"
    flags = [*BUILDS[name], *COMMON_FLAGS, *_OTHERS]
    environment = dict(os.environ)
    if name == "openblas from PyPI":
        flags += _pypi_openblas(folder)
    cmake = ["cmake", "-S", str(_source(folder)), "-B", str(out), "-DCMAKE_BUILD_TYPE=Release"]
    if _has("ninja"):
        cmake += ["-G", "Ninja"]
    if _has("ccache"):
        cmake += [f"-DCMAKE_{kind}_COMPILER_LAUNCHER=ccache" for kind in ("C", "CXX")]
    for command in ([*cmake, *flags], ["cmake", "--build", str(out), "--target", "llama"]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    (out / "done").touch()
    return out / "bin"


def _has(program: str) -> bool:
    return subprocess.run(["which", program], capture_output=True).returncode == 0


def _source(folder: Path) -> Path:
    """llama.cpp's source, as it comes with the installed version of llama-cpp-python."""
    version = importlib.metadata.version("llama-cpp-python")
    source = folder / f"llama_cpp_python-{version}"
    if not source.exists():
        archive = cache_dir() / "sdist" / f"llama_cpp_python-{version}.tar.gz"
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    return source / "vendor" / "llama.cpp"


def _pypi_openblas(folder: Path) -> list[str]:
    """Install `scipy-openblas32` beside the builds; the flags that make CMake use it.

    Its functions begin with `scipy_`, so that NumPy's and SciPy's can be in one process: the
    compiler is told both names.
    """
    site = folder / "scipy-openblas32"
    if not site.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(site)]
        subprocess.run([*command, "scipy-openblas32"], check=True)
    package = site / "scipy_openblas32"
    (library,) = (package / "lib").glob("libscipy_openblas*.so")
    names = ("cblas_sgemm", "openblas_set_num_threads", "openblas_get_config")
    renamed = " ".join(f"-D{name}=scipy_{name}" for name in names)
    return [
        f"-DBLAS_LIBRARIES={library}",
        f"-DBLAS_INCLUDE_DIRS={package / 'include'}",
        f"-DCMAKE_CXX_FLAGS={renamed}",
        f"-DCMAKE_BUILD_RPATH={library.parent}",
    ]


# -- measuring ------------------------------------------------------------------------------------


def ask(libraries: Path | None, question: dict[str, Any], environment: dict[str, str]) -> Any:
    """Run `_answer` in a process that loads a build's libraries."""
    inherited = {k: v for k, v in os.environ.items() if k not in _NOT_IN_CHILDREN}
    if libraries is not None:
        inherited["LLAMA_CPP_LIB_PATH"] = str(libraries)
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench_builds", "--child", json.dumps(question)],
        env=inherited | environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def _answer(question: dict[str, Any]) -> Any:
    """In the child: the times of prompts and of generation, or what a build writes."""
    from helpers.engine import Engine, LoadOptions, Request
    from helpers.engine.core import settle
    from helpers.native import Context, Model

    options = LoadOptions(
        model_path=question["model"],
        **{"n_ctx": 2048, "n_gpu_layers": 0, "isolate": False} | question.get("options", {}),
    )
    if "texts" in question:
        return [_written(Engine(options), texts, Request) for texts in question["texts"]]
    settled = settle(options)
    model = Model(settled)
    context = Context(model, settled)
    found: dict[str, float] = {}
    tokens = [7 * n % 40_000 + 1000 for n in range(max(question["lengths"]))]
    context.decode(tokens[:64], 0, 0, logits=True)
    for length in question["lengths"]:
        context.clear()
        started = time.perf_counter()
        context.decode(tokens[:length], 0, 0, logits=True)
        found[f"prompt {length}"] = length / (time.perf_counter() - started)
    started = time.perf_counter()
    for n in range(32):
        context.decode([tokens[n]], question["lengths"][-1] + n, 0, logits=True)
    found["eval"] = 32 / (time.perf_counter() - started)
    return found


def _written(engine: Any, texts: list[str], make_request: Any) -> list[str]:
    """What a fresh engine writes to texts one after the other; the answer of the last counts.

    Those before it are only to be in the cache, and get no answer: an answer's own tokens are
    rounded as single ones, and are kept so on purpose.
    """
    with engine:
        return [
            engine.generate(
                make_request(
                    prompt=text,
                    temperature=0.0,
                    repeat_penalty=1.0,
                    max_tokens=24 if text == texts[-1] else 1,
                )
            ).text
            for text in texts
        ]


def texts() -> list[list[str]]:
    """Prompts of several lengths; each is asked first, and then again after its own beginning."""
    story = (DATA / "river.txt").read_text().split()
    words = (story * 20)[:1600]
    prompts = [" ".join(words[: int(count * 0.75)]) for count in CHECKED]
    return [[prompt, prompt[: len(prompt) // 2], prompt] for prompt in prompts]


def check(name: str, libraries: Path, model: Path, expected: list[list[str]] | None) -> Any:
    """Whether a build writes what the default build does, and warm what it does cold."""
    cold = [ask(libraries, {"model": str(model), "texts": [one[:1]]}, {})[0] for one in texts()]
    warm = ask(libraries, {"model": str(model), "texts": [one[1:] for one in texts()]}, {})
    return {
        "build": name,
        "texts": cold,
        "as_default": None
        if expected is None
        else [a == b for a, b in zip(cold, expected, strict=True)],
        "warm_as_cold": [w[-1] == c[0] for w, c in zip(warm, cold, strict=True)],
    }


def main() -> None:
    """Build, measure, print a table and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two types, one round, no checks")
    parser.add_argument("--wide", action="store_true", help="the types of the wide model alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="the file to write")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(_answer(json.loads(arguments.child))))
        return
    folder = cache_dir() / "builds"
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.wide:
        _measure_wide(folder, arguments.rounds, arguments.out or _file())
        return
    libraries = {}
    for name in BUILDS:
        print(f"  building {name} …", file=sys.stderr, flush=True)
        libraries[name] = build(name, folder)
    types = ("Q4_0", "Q4_1") if arguments.quick else TYPES
    models = {kind: _twin(folder, kind) for kind in types}
    rounds = 1 if arguments.quick else arguments.rounds
    runs: dict[tuple[str, str, str, str], list[float]] = {}

    def measure(name: str, kind: str, setting: str) -> None:
        options, environment = SETTINGS.get(setting) or ({}, BLAS_SETTINGS[setting])
        question = {"model": str(models[kind]), "lengths": LENGTHS, "options": options}
        for what, speed in ask(libraries[name], question, environment).items():
            runs.setdefault((name, kind, setting, what), []).append(speed)

    for n in range(rounds):
        print(f"  round {n + 1} of {rounds} …", file=sys.stderr, flush=True)
        for kind in types:
            for name in BUILDS if n % 2 == 0 else reversed(BUILDS):
                measure(name, kind, "default")
        for setting, name in itertools.product(BLAS_SETTINGS, BUILDS):
            if "openblas" in name:
                measure(name, "Q4_1", setting)
        for setting in [*SETTINGS][1:]:
            measure("cpu", "Q4_1", setting)
            measure("cpu", "Q4_1", "default")
    checks = []
    for name in () if arguments.quick else BUILDS:
        print(f"  texts of {name} …", file=sys.stderr, flush=True)
        expected = checks[0]["texts"] if checks else None
        checks.append(check(name, libraries[name], default_model(), expected))
    machine = describe_machine()
    rows = [
        {"build": b, "type": t, "setting": s, "what": w, "runs": [round(r, 2) for r in speeds]}
        for (b, t, s, w), speeds in runs.items()
    ]
    data = {
        **machine,
        "date": date.today().isoformat(),
        "not_here": "AMX: this processor has none" if "amx" not in _cpu_flags() else "nothing",
        "rows": rows,
        "checks": [{k: v for k, v in one.items() if k != "texts"} for one in checks],
    }
    out = arguments.out or _file()
    if out.exists():  # those of the wide model are measured by themselves
        data["rows"] += [r for r in json.loads(out.read_text())["rows"] if r["setting"] == ROWS]
    out.write_text(json.dumps(data, indent=1) + "\n")
    _print(rows)
    print(json.dumps(data["checks"], indent=1))


def _measure_wide(folder: Path, rounds: int, out: Path) -> None:
    """Prompt eval and generation of the wide model in each type, with the build as it is."""
    runs: dict[tuple[str, str], list[float]] = {}
    models = {kind: _wide(folder, kind) for kind in WIDE}
    for n in range(rounds):
        print(f"  round {n + 1} of {rounds} …", file=sys.stderr, flush=True)
        for kind in WIDE if n % 2 == 0 else reversed(WIDE):
            question = {"model": str(models[kind]), "lengths": LENGTHS}
            for what, speed in ask(None, question, {}).items():
                runs.setdefault((kind, what), []).append(speed)
    rows = [
        {"build": "cpu", "type": t, "setting": ROWS, "what": w, "runs": [round(r, 2) for r in got]}
        for (t, w), got in runs.items()
    ]
    data = json.loads(out.read_text())
    data["rows"] = [row for row in data["rows"] if row["setting"] != ROWS] + rows
    out.write_text(json.dumps(data, indent=1) + "\n")
    _print(rows)


def _wide(folder: Path, kind: str) -> Path:
    """A llama of eight blocks with random weights, 4,096 tokens of context and rows of 2,048."""
    path, plain = folder / f"wide-{kind}.gguf", folder / "wide-F32.gguf"
    if not path.exists():
        if not plain.exists():
            tiny_llama(
                plain, layers=8, width=2048, heads=32, kv_heads=8, feed_forward=5632, context=4096,
                vocabulary=default_model(),
            )  # fmt: skip
        quantize(plain, kind, path)
    return path


def _file() -> Path:
    """Where the table of this processor is kept."""
    processor = describe_machine()["processor"].partition(",")[0].lower()
    return DATA / f"builds_{re.sub(r'[^a-z0-9]+', '_', processor).strip('_')}.json"


def _print(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        print(*(row[key] for key in ("build", "type", "setting", "what")), sep=" | ", end=" | ")
        print(f"{statistics.median(row['runs']):.1f}", *row["runs"])


def _cpu_flags() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def _twin(folder: Path, kind: str) -> Path:
    if kind == "Q4_1":
        return default_model()
    path = folder / f"{kind}.gguf"
    if not path.exists():
        quantize(default_model(), kind, path, allow_requantize=True)
    return path


if __name__ == "__main__":
    main()
