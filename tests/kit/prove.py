"""The whole proof: a kit of the real suite, and machines without a network that use it.

`python -m tests.kit.prove [FOLDER]` on Linux, as root or where users may make namespaces. It makes
a kit (with the network, or with what pip and the suite keep), and then, in network namespaces
that have no device but the loopback (which a machine without a network has, and the practice
accelerator needs), with an empty home and empty caches:

1. the kit's suite.zip, and `lab --check --kit FOLDER`;
2. the same from `kit --serve`.

It takes minutes, and says how many.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from helpers.install.kit import check
from helpers.kit.make import make
from tests.support import ROOT

_NO_WAY = """
import socket
try:
    socket.create_connection(("192.0.2.1", 80), 5)
except OSError as error:
    print("no network:", error.strerror)
else:
    raise SystemExit("there is a network, so that nothing would be proven")
"""
_FROM_STICK = '"$PYTHON" -m helpers lab --check --kit "$KIT"'
_SERVED = """
(cd "$ROOT" && exec "$SERVER" -c "import sys, pathlib; from helpers.kit.serve import serve
serve(pathlib.Path(sys.argv[1]), '127.0.0.1', 8080)" "$KIT" > "$HOME/served") & SERVING=$!
for _ in $(seq 150); do grep -q -- --kit "$HOME/served" 2>/dev/null && break; sleep 0.2; done
"$PYTHON" -m helpers lab --check --kit "$(sed -n 's/.*--kit //p' "$HOME/served")"
STATUS=$?
kill $SERVING
exit $STATUS
"""


def _timed(title: str, begin: float) -> None:
    print(f"== {title}: {(time.monotonic() - begin) / 60:.1f} minutes", flush=True)


def _learner(folder: Path, name: str, kit: Path, script: str) -> None:
    """Unpack the suite on a new machine, and run a script there, without a network."""
    python = getattr(sys, "_base_executable", sys.executable)
    home, suite = folder / f"{name}-home", folder / f"{name}-suite"
    for old in (home, suite):
        shutil.rmtree(old, ignore_errors=True)
    home.mkdir()
    begin = time.monotonic()
    subprocess.run([python, "-m", "zipfile", "-e", kit / "suite.zip", suite], check=True)
    # Nothing of this machine's: no pip configuration, no caches, no compiler's variables.
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(home), "KIT": str(kit), "PYTHON": python,
        "SERVER": sys.executable, "ROOT": str(ROOT),
    }  # fmt: skip
    rights = [] if os.geteuid() == 0 else ["-r"]
    whole = f"ip link set lo up\n\"$PYTHON\" -c '{_NO_WAY}' || exit 3\n{script}"
    subprocess.run(
        ["unshare", *rights, "-n", "sh", "-c", whole], cwd=suite, env=environment, check=True
    )
    _timed(f"lab --check --kit, {name}", begin)


def main(folder: Path) -> None:
    """Make the kit, and use it twice."""
    kit, begin = folder / "a stick" / "kit", time.monotonic()
    make(kit)
    _timed("kit", begin)
    begin = time.monotonic()
    make(kit)
    _timed("kit, again", begin)
    check(kit)
    _learner(folder, "stick", kit, _FROM_STICK)
    _learner(folder, "served", kit, _SERVED)
    print("Proven: the lab was made twice without a network, from the kit alone.")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]).resolve())
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
