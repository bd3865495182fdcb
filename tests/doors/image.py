"""The image's steps without a daemon, in a folder of their own: `python -m tests.doors.image`.

What .dockerignore leaves is copied, the steps run that the Dockerfile names (but those that install
Debian's packages), then its command; as nobody, and without a compiler on PATH, where the second
stage would. It takes minutes: llama-cpp-python is built.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import psutil

from helpers.install.paths import cache_dir

ROOT = Path(__file__).resolve().parents[2]
# What the second stage has: Debian's slim image and libgomp1.
LIBRARIES = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6", "libgomp.so.1"}
Stage = list[tuple[str, str]]


def stages() -> list[Stage]:
    """The Dockerfile's stages, each its instructions in order as (name, rest)."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    found: list[Stage] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            found.append([])
        if name and not name.startswith("#") and found:
            found[-1].append((name, rest.strip()))
    return found


def arguments(stage: Stage, name: str) -> list[str]:
    """What stands behind one instruction, each time that a stage has it."""
    return [rest for instruction, rest in stage if instruction == name]


def context() -> list[str]:
    """The tracked files that .dockerignore leaves."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]

    def ignored(name: str) -> bool:
        path = PurePosixPath(name)
        return any(
            fnmatch(place.name, pattern[3:])
            if pattern.startswith("**/")
            else fnmatch(str(place), pattern)
            for place in (path, *path.parents)
            for pattern in patterns
        )

    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return [name for name in listed.stdout.decode().split("\0") if name and not ignored(name)]


def _libraries(folder: Path) -> set[str]:
    """The system's libraries that llama-cpp-python needs."""
    needed, own = set(), set()
    for path in folder.glob(".venv/lib/python3*/site-packages/llama_cpp/lib/*"):
        own.add(path.name)
        done = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True)
        needed |= set(re.findall(r"NEEDED.*\[(.+)\]", done.stdout))
    return {name for name in needed - own if not name.startswith("ld-linux")}


def _status(path: str, token: str = "") -> int:
    headers = {"Authorization": f"token {token}"} if token else {}
    request = urllib.request.Request(f"http://127.0.0.1:8888{path}", headers=headers)
    try:
        return int(urllib.request.urlopen(request, timeout=10).status)
    except urllib.error.HTTPError as error:
        return error.code


def main() -> None:
    """Run it all; the first thing that is wrong ends it."""
    first, second = stages()
    room = Path(tempfile.mkdtemp())
    room.chmod(0o755)
    folder, home, programs = room / "llama-notebooks", room / "home", room / "bin"
    for name in context():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    # Debian's own Python: nobody can read one that lies in root's home.
    base = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    base |= {k: v for k, v in os.environ.items() if k.startswith("PIP_")}
    base |= {"LLAMA_NOTEBOOKS_CACHE": str(room / "cache")}
    if (cache_dir() / "sdist").exists():  # 77 MB that need not come again
        shutil.copytree(cache_dir() / "sdist", room / "cache" / "sdist")
        (room / "cache" / "lock").touch()  # by which a cache of the suite is known
    settings = dict(x.split("=", 1) for one in arguments(first, "ENV") for x in shlex.split(one))
    begin = time.monotonic()
    subprocess.run(
        shlex.split(arguments(first, "RUN")[-1]), cwd=folder, env={**base, **settings}, check=True
    )
    print(f"built in {time.monotonic() - begin:.0f} s", flush=True)
    assert _libraries(folder) <= LIBRARIES, _libraries(folder)
    size = subprocess.run(["du", "-sm", folder], capture_output=True, text=True, check=True).stdout
    print(f"{size.split()[0]} MiB in the last layer; the libraries need {_libraries(folder)}")

    programs.mkdir()
    for name in ("bash", "python3"):
        (programs / name).symlink_to(Path("/usr/bin") / name)
    home.mkdir()
    user: dict[str, int] = {}
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "65534:65534", folder, home], check=True)
        user = {"user": 65534, "group": 65534}
    bare = {"PATH": str(programs), "HOME": str(home), "JUPYTER_TOKEN": "a-token-of-the-test"}
    run = {"cwd": folder, "env": bare, **user}
    subprocess.run(shlex.split(arguments(second, "RUN")[-1]), check=True, **run)
    health = json.loads(arguments(second, "HEALTHCHECK")[0].partition("CMD ")[2])
    server = subprocess.Popen(json.loads(arguments(second, "CMD")[-1]), **run)
    try:
        while subprocess.run(health, capture_output=True, **run).returncode:
            assert server.poll() is None, "the server has ended"
            time.sleep(1)
        listening = {c.laddr for c in psutil.Process(server.pid).net_connections() if c.laddr}
        assert ("0.0.0.0", 8888) in listening, listening
        told = [_status("/api/contents"), _status("/api/contents", bare["JUPYTER_TOKEN"])]
        assert told == [403, 200], told
    finally:
        server.terminate()
        server.wait(30)
    shutil.rmtree(room)
    print("The image's steps pass: proved without a compiler, served with a token alone.")


if __name__ == "__main__":
    main()
