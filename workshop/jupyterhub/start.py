"""Start the class: `python3 workshop/jupyterhub/start.py`, and nothing before it.

It makes the suite's environment, adds JupyterHub and its proxy (an npm package: Node.js 20 or newer
must be there), prints what to write on the board, and runs the hub until Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SUITE = HERE.parents[1]
PAGE = "teachers-page"
sys.path.insert(0, str(SUITE))

from helpers.install.paths import cache_dir, inside, venv_dir, venv_python  # noqa: E402


def main() -> int:
    """Prepare what is missing, and become the hub."""
    parser = argparse.ArgumentParser(prog="start.py", description="A class on this machine.")
    parser.add_argument("--model", help="the model that is served (default: the embedded one)")
    parser.add_argument("--parallel", type=int, default=8, help="answers made side by side (8)")
    parser.add_argument("--host", default="127.0.0.1", help="address to open (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="its port (8000)")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path.home() / "llama-notebooks-class",
        help="the hub's state and the learners' notebooks (default: %(default)s)",
    )
    parser.add_argument(
        "--accounts", action="store_true", help="log in with this machine's accounts (needs root)"
    )
    parser.add_argument("--check", action="store_true", help="do all but start the hub")
    options = parser.parse_args()
    if options.model is not None:
        model = Path(options.model).expanduser()
        options.model = str(model.resolve()) if model.exists() else options.model
    subprocess.run([sys.executable, "-m", "helpers", "lab", "--check"], cwd=SUITE, check=True)
    python = str(venv_python(venv_dir()))
    if not inside(venv_dir()):
        os.execv(python, [python, *sys.argv])
    settings = {
        "LLAMA_HUB_FOLDER": str(options.folder.resolve()),
        "LLAMA_HUB_HOST": options.host,
        "LLAMA_HUB_PORT": str(options.port),
        "LLAMA_HUB_PARALLEL": str(options.parallel),
        "LLAMA_HUB_PROXY": "\n".join(proxy()),
        **({"LLAMA_HUB_MODEL": options.model} if options.model else {}),
    }
    from helpers.serve.keys import KeyFile, add_keys, remove_keys  # needs what is installed

    packages(python)
    options.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not options.accounts:
        for name, size in (("PASSWORD", 6), ("TEACHER", 24)):
            settings[f"LLAMA_HUB_{name}"] = os.environ.get(
                f"LLAMA_HUB_{name}"
            ) or secrets.token_urlsafe(size)
    print(f"\nLearners open http://{options.host}:{options.port}/")
    if options.accounts:
        print("and log in with their accounts on this machine; the teacher's is named teacher.")
    else:
        password, teacher = settings["LLAMA_HUB_PASSWORD"], settings["LLAMA_HUB_TEACHER"]
        print(f"and log in with a name of their own and the password {password}")
        print(f"The user teacher has the password {teacher}")
    keys = options.folder / "keys"
    if keys.exists():
        remove_keys(keys, [key.name for key in KeyFile(keys).read()])  # of an earlier class
    print(f"Who is at work: http://{options.host}:{options.port}/services/llm/")
    print(f"with the key {add_keys(keys, [PAGE], teacher=True)[PAGE]}\n")
    if options.check:
        return 0
    sys.stdout.flush()
    os.environ.update(settings)
    os.environ["PYTHONPATH"] = str(SUITE)
    os.chdir(options.folder)
    command = [python, "-m", "jupyterhub", "-f", str(HERE / "jupyterhub_config.py")]
    if sys.platform == "win32":
        return subprocess.run(command).returncode
    os.execv(python, command)
    return 0


def packages(python: str) -> None:
    """Add JupyterHub to the environment, once."""
    present = subprocess.run([python, "-c", "import jupyterhub"], capture_output=True)
    if present.returncode:
        print("Installing JupyterHub ...", flush=True)
        wanted = ["-r", str(HERE / "requirements.txt"), "-c", str(SUITE / "constraints.txt")]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)


def proxy() -> list[str]:
    """The command of configurable-http-proxy, which npm installs into the cache folder, once."""
    found = shutil.which("configurable-http-proxy")
    if found:
        return [found]
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise SystemExit("JupyterHub's proxy needs Node.js 20 or newer: install nodejs and npm.")
    folder = cache_dir() / "hub-proxy"
    package = folder / "node_modules" / "configurable-http-proxy"
    program = package / "bin" / "configurable-http-proxy"
    if not program.exists():
        print("Installing configurable-http-proxy ...", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "package.json", folder)
        quiet = ["--no-fund", "--no-audit", "--no-package-lock", "--loglevel=error"]
        subprocess.run([npm, "install", *quiet], cwd=folder, check=True)
    return [node, str(program)]


if __name__ == "__main__":
    raise SystemExit(main())
