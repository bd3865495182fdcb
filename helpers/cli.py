"""The commands of `python -m helpers`.

Each prepares the environment and continues inside it, so that it does not matter which Python
started it. `clean`, `doctor` and `progress` are the exceptions: they never install anything.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from helpers.doctor import main as doctor
from helpers.doctor import read_options, report_path
from helpers.errors import InstallError, ModelFileError
from helpers.install import environment
from helpers.install.backends import BACKENDS
from helpers.install.clean import clean
from helpers.install.commands import nearest
from helpers.install.kit import Kit, check, open_kit
from helpers.install.paths import REPOSITORY, in_conda, inside, venv_dir, venv_python

FIRST_NOTEBOOK = Path("notebooks") / "00_start_here.ipynb"
NBVAL = ("--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=180", "--durations=10")
# pytest's options that take the next word as their value: that word is not a path.
_WITH_VALUE = {
    "-k", "-m", "-p", "-n", "-o", "-c", "-W", "-r", "--rootdir", "--durations", "--maxfail",
    "--deselect", "--ignore", "--junitxml", "--tb", "--log-file", "--basetemp", "--timeout",
    "--confcutdir", "--capture", "--color", "--dist", "--nbval-sanitize-with",
    "--nbval-kernel-name",
}  # fmt: skip

Command = Callable[[Sequence[str]], int]


class _Parser(argparse.ArgumentParser):
    """argparse, with one line instead of the usage text."""

    def error(self, message: str) -> NoReturn:
        raise InstallError(f"{message}; see {self.prog} --help")


def _enter(
    command: str, arguments: Sequence[str], backend: str | None = None, kit: Kit | None = None
) -> None:
    """Prepare the environment and continue inside it: there this returns, elsewhere never."""
    environment.ensure(REPOSITORY, backend, kit)
    if not inside(venv_dir()):
        raise SystemExit(_in_environment([command, *arguments]))


def _in_environment(arguments: Sequence[str]) -> int:
    """Run `python -m helpers ARGUMENTS` with the environment's Python, in place of this process."""
    return _replace([str(venv_python(venv_dir())), "-m", "helpers", *arguments])


def _replace(command: Sequence[str]) -> int:
    """Continue as another program; on Windows, run it and wait, which looks the same."""
    os.chdir(REPOSITORY)
    sys.stdout.flush()
    sys.stderr.flush()
    env = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME"}}
    if sys.platform != "win32":
        os.execve(command[0], list(command), env)
    process = subprocess.Popen(list(command), env=env)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the child has got it too and decides
            continue


def _lab(arguments: Sequence[str]) -> int:
    parser = _Parser(prog="python -m helpers lab", description="Open the suite in JupyterLab.")
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help="what runs the model: auto (default: looks at the machine), " + ", ".join(BACKENDS),
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="the model of all notebooks in place of the small one: a GGUF file, or any name that "
        "find_model knows, such as qwen3.5-4b (downloaded if need be)",
    )
    parser.add_argument(
        "--kit",
        metavar="PLACE",
        help="take everything from a kit and nothing from a network: a folder, or the address that "
        "kit --serve printed",
    )
    parser.add_argument("--port", type=int, help="port of the server (default: the first free one)")
    parser.add_argument(
        "--ip",
        "--host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="address to listen on (127.0.0.1: this machine alone; 0.0.0.0: every network that it "
        "is in, as a container needs it); whoever comes needs the token in any case",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument("--check", action="store_true", help="do all but start the server")
    options = parser.parse_args(list(arguments))
    known = ["auto", *BACKENDS]
    if options.backend is not None and options.backend not in known:
        raise InstallError(nearest(options.backend, known, "backend"))
    if options.port is not None and not 0 < options.port < 65536:
        raise InstallError(f"there is no port {options.port}: choose one from 1 to 65535")
    _check_address(options.ip)
    kit = None
    if options.kit is not None:
        ready = environment.is_ready(REPOSITORY, options.backend)
        kit = open_kit(options.kit, options.model, wheels=not ready)
    _enter("lab", arguments, options.backend, kit)
    if kit is not None and kit.models:
        from helpers.models.stores import FOLDER_VARIABLE  # needs what is installed

        os.environ.setdefault(FOLDER_VARIABLE, str(kit.folder / "models"))
    if options.model is not None:
        _choose_model(options.model)
    status = doctor([], fresh=False)
    if status or options.check:
        return status
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.ip={options.ip}", "-y"]
    command.append(f"--ServerApp.root_dir={REPOSITORY}")
    if options.port is not None:
        command.append(f"--ServerApp.port={options.port}")
    if options.no_browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        # In a container there is often no other user; Jupyter refuses root without this option.
        command.append("--allow-root")
    if (REPOSITORY / FIRST_NOTEBOOK).exists():
        command.append(str(REPOSITORY / FIRST_NOTEBOOK))
    # A kernel of the same name in the user's home must not stand in for this environment's.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    return _replace(command)


def _check_address(address: str) -> None:
    """Find out before the long steps whether this machine can listen on an address."""
    try:
        family = {4: socket.AF_INET, 6: socket.AF_INET6}[ipaddress.ip_address(address).version]
        socket.create_server((address, 0), family=family).close()
    except (ValueError, OSError) as error:
        raise InstallError(
            f"this machine cannot listen on {address!r} ({error}): give 127.0.0.1 for this machine "
            "alone, 0.0.0.0 for every network that it is in, or its address in one of them"
        ) from None


def _choose_model(name: str) -> None:
    """Let every kernel that is started from here use a model; `default_model` gives it."""
    from helpers.models import find_model, inspect_model  # not at the top: needs what is installed
    from helpers.models.default import MODEL_VARIABLE
    from helpers.models.purpose import check_generates

    try:
        info = inspect_model(find_model(name))
        check_generates(info.metadata)
    except ModelFileError as error:
        raise InstallError(str(error)) from error
    os.environ[MODEL_VARIABLE] = str(info.path)
    size = f"{info.n_params / 1e9:.2f} billion weights"
    template = "" if info.chat_template else "; a base model without a chat template"
    print(f"Model of the notebooks: {info.path.name}, {size}{template}")


def names_paths(arguments: Sequence[str]) -> bool:
    """Say whether pytest's arguments name files or folders to test."""
    value_next = False
    for argument in arguments:
        if value_next:
            value_next = False
        elif argument in _WITH_VALUE:
            value_next = True
        elif not argument.startswith("-"):
            path = argument.partition("::")[0]
            if (Path.cwd() / path).exists() or (REPOSITORY / path).exists():
                return True
    return False


def pytest_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments for pytest: the suite's own, and the user's last."""
    paths = [] if names_paths(arguments) else ["helpers", "tests", "notebooks"]
    return [*NBVAL, *paths, *arguments]


def _test(arguments: Sequence[str]) -> int:
    _enter("test", arguments)
    os.chdir(REPOSITORY)
    return _replace([sys.executable, "-m", "pytest", *pytest_arguments(arguments)])


def _lint(arguments: Sequence[str]) -> int:
    _Parser(prog="python -m helpers lint", description="Check form and types.").parse_args(
        list(arguments)
    )
    _enter("lint", arguments)
    os.chdir(REPOSITORY)
    worst = 0
    for tool in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]):
        print("$ " + " ".join(tool), flush=True)
        worst = max(worst, subprocess.run([sys.executable, "-m", *tool], check=False).returncode)
    return worst


def _doctor(arguments: Sequence[str]) -> int:
    # Whoever activated a conda environment asks about that one.
    elsewhere = not (inside(venv_dir()) or in_conda()) and venv_python(venv_dir()).exists()
    options = read_options(arguments)
    if options.room is not None or not elsewhere:
        return doctor(arguments)
    # The other process begins in the clone; a report goes to where this one is.
    target = [] if options.report is None else ["--report", str(report_path(options.report))]
    return _in_environment(["doctor", *target])


def _clean(arguments: Sequence[str]) -> int:
    parser = _Parser(prog="python -m helpers clean", description="Remove what the suite put here.")
    parser.add_argument("--yes", action="store_true", help="remove without asking")
    return clean(REPOSITORY, yes=parser.parse_args(list(arguments)).yes)


def _bench(arguments: Sequence[str]) -> int:
    _enter("bench", arguments)
    from helpers.bench import main as bench  # not at the top: it needs what is installed

    return bench(arguments)


def _serve(arguments: Sequence[str]) -> int:
    _enter("serve", arguments)
    from helpers.serve.command import main as serve  # not at the top: it needs what is installed

    return serve(arguments)


def _rpc(arguments: Sequence[str]) -> int:
    _enter("rpc", arguments)
    from helpers.serve.rpc import main as rpc  # not at the top: it needs what is installed

    return rpc(arguments)


def _progress(arguments: Sequence[str]) -> int:
    parser = _Parser(prog="python -m helpers progress", description="Say who is where in a class.")
    parser.add_argument("folder", metavar="FOLDER", help="that of LLAMA_NOTEBOOKS_PROGRESS")
    parser.add_argument("--watch", action="store_true", help="go on until Ctrl-C")
    options = parser.parse_args(list(arguments))
    from helpers.lessons.standing import show

    return show(options.folder, watch=options.watch)


def _kit(arguments: Sequence[str]) -> int:
    parser = _Parser(
        prog="python -m helpers kit",
        description="Put all that a room without a network needs into a folder, or serve it there.",
    )
    parser.add_argument("out", nargs="?", type=Path, help="the folder: new, empty, or a kit")
    parser.add_argument("--systems", nargs="+", default=[], metavar="NAME", help="default: this")
    parser.add_argument("--pythons", nargs="+", default=[], metavar="3.N", help="default: this")
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME", help="further models")
    parser.add_argument("--check", type=Path, metavar="PATH", help="see that a kit is whole")
    parser.add_argument("--serve", type=Path, metavar="PATH", help="serve a kit in the room")
    parser.add_argument("--host", default="127.0.0.1", help="a private address of this machine")
    parser.add_argument("--port", type=int, default=8080, help="default: 8080")
    options = parser.parse_args(list(arguments))
    if sum(x is not None for x in (options.out, options.check, options.serve)) != 1:
        raise InstallError("name a folder, first: kit OUT, kit --check PATH, or kit --serve PATH")
    if options.check is not None:
        return check(options.check)
    from helpers.kit.targets import make_targets

    make_targets(options.systems, options.pythons)  # a slip is said before anything is installed
    _enter("kit", arguments)
    if options.serve is not None:
        from helpers.kit.serve import serve  # not at the top: it needs what is installed

        return serve(options.serve, options.host, options.port)
    from helpers.kit.make import make

    return make(options.out, options.systems, options.pythons, options.models)


def _site(arguments: Sequence[str]) -> int:
    _enter("site", arguments)
    from helpers.publish.site import main as site  # not at the top: it needs what is installed

    return site(arguments)


def _slides(arguments: Sequence[str]) -> int:
    _enter("slides", arguments)
    from helpers.publish.slides import main as slides  # not at the top: it needs what is installed

    return slides(arguments)


COMMANDS: dict[str, tuple[Command, str]] = {
    "lab": (_lab, "make the environment, check it, open JupyterLab on the first notebook"),
    "test": (_test, "run every test and every notebook; pytest's arguments are passed on"),
    "lint": (_lint, "check form and types"),
    "doctor": (_doctor, "say what is installed and active, and how to fix what is not"),
    "progress": (_progress, "show a teacher who has reached what in the notebooks"),
    "clean": (_clean, "say what the suite has put on the disk, and remove it"),
    "serve": (_serve, "serve one model to many, by OpenAI's protocol"),
    "bench": (_bench, "measure sweeps of the parameters that decide speed"),
    "kit": (_kit, "put all that a room without a network needs into a folder, or serve it"),
    "rpc": (_rpc, "lend this machine's devices to a model on another one"),
    "slides": (_slides, "make slides from the notebooks' own cells, with notes for the speaker"),
    "site": (_site, "build the site: notebooks, workshop, API"),
}


def _usage() -> str:
    lines = ["usage: python -m helpers COMMAND [ARGUMENTS]", ""]
    lines += [f"  {name:10}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join([*lines, "", "COMMAND --help says more."])


def _stop_on_terminate(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status; 2 means that it could not be begun."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # an old console must not end a run
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_usage())
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    # A terminated run must end its children too, as an interrupted one does.
    signal.signal(signal.SIGTERM, _stop_on_terminate)
    try:
        if name not in COMMANDS:
            raise InstallError(nearest(name, list(COMMANDS), "command"))
        return COMMANDS[name][0](rest)
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to continue.", file=sys.stderr)
        return 130
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror or error}{place}", file=sys.stderr)
        return 2
