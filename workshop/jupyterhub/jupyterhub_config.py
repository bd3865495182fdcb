"""A class on one machine: JupyterHub with the model's server as one of its services.

`start.py` beside this file prepares what it needs and starts it. Settings come as environment
variables, so that another start (systemd, a container) can give them as well:

LLAMA_HUB_FOLDER    where the hub keeps its state, the keys and the learners' folders
LLAMA_HUB_HOST      address that learners open (127.0.0.1)
LLAMA_HUB_PORT      its port (8000)
LLAMA_HUB_MODEL     the model that is served (the embedded one)
LLAMA_HUB_PARALLEL  answers that are made side by side (8)
LLAMA_HUB_PASSWORD  what learners log in with, under any name; none: the machine's own accounts
LLAMA_HUB_TEACHER   what the user `teacher` logs in with, 32 characters or more
LLAMA_HUB_PROXY     the program configurable-http-proxy
"""

import os
import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path

from helpers.errors import HelpersError
from helpers.serve.keys import add_keys, remove_keys

SUITE = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ["LLAMA_HUB_FOLDER"])
KEYS = FOLDER / "keys"
HOST = os.environ.get("LLAMA_HUB_HOST", "127.0.0.1")
PORT = int(os.environ.get("LLAMA_HUB_PORT", "8000"))
PASSWORD = os.environ.get("LLAMA_HUB_PASSWORD", "")
MODEL = os.environ.get("LLAMA_HUB_MODEL")
TEACHER = "teacher"


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


c = get_config()  # type: ignore[name-defined]  # noqa: F821

# -- the hub, its proxy, and who may come in -------------------------------------------------------

hub, api, service = (free_port() for _ in range(3))
c.JupyterHub.bind_url = f"http://{HOST}:{PORT}"
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{hub}"
c.JupyterHub.db_url = f"sqlite:///{FOLDER / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(FOLDER / "cookie_secret")
c.ConfigurableHTTPProxy.pid_file = str(FOLDER / "proxy.pid")
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{api}"
c.ConfigurableHTTPProxy.command = os.environ["LLAMA_HUB_PROXY"].split("\n")

c.Authenticator.admin_users = {TEACHER}
if PASSWORD:
    # One password for all, as on a board in the room: for a workshop, not for a term.
    c.JupyterHub.authenticator_class = "shared-password"
    c.Authenticator.allow_all = True
    c.SharedPasswordAuthenticator.user_password = PASSWORD
    c.SharedPasswordAuthenticator.admin_password = os.environ.get("LLAMA_HUB_TEACHER", "")
    # All learners' programs run under the account that starts the hub.
    c.JupyterHub.spawner_class = "simple"
    c.SimpleLocalProcessSpawner.home_dir_template = str(FOLDER / "learners" / "{username}")
else:
    c.JupyterHub.authenticator_class = "pam"
    c.LocalAuthenticator.allow_all = True

# -- the model's server, as a managed service at /services/llm/ -----------------------------------

c.JupyterHub.services = [
    {
        "name": "llm",
        "url": f"http://127.0.0.1:{service}",
        "command": [
            *(sys.executable, "-m", "helpers", "serve"),
            *("--port", str(service)),
            *("--prefix", "/services/llm"),
            *("--keys", str(KEYS)),
            *("--parallel", os.environ.get("LLAMA_HUB_PARALLEL", "8")),
            *(("--model", MODEL) if MODEL else ()),
        ],
        "cwd": str(SUITE),
    }
]

# -- each learner's notebook server: the suite's notebooks, the server's address, a key ------------


def give_key(spawner: object) -> None:
    """Give a notebook server a key of its own, and its learner a copy of the notebooks.

    The server keeps the key's hash alone and reads the file again when it has changed, so the old
    key of a learner who starts anew is worth nothing any more.
    """
    name = spawner.user.name  # type: ignore[attr-defined]
    spawner.environment |= {  # type: ignore[attr-defined]
        "LLAMA_NOTEBOOKS_SERVER": f"http://{HOST}:{PORT}/services/llm",
        "LLAMA_NOTEBOOKS_KEY": new_key(name),
    }
    if PASSWORD:
        home = FOLDER / "learners" / name
        for part in ("notebooks", "grammars"):
            if not (home / part).exists():
                shutil.copytree(SUITE / part, home / part)


def take_key(spawner: object) -> None:
    """A notebook server that has ended needs no key."""
    with suppress(HelpersError):
        remove_keys(KEYS, [spawner.user.name])  # type: ignore[attr-defined]


def new_key(name: str) -> str:
    """A key of a user, in place of the one they had."""
    with suppress(HelpersError):
        remove_keys(KEYS, [name])
    return add_keys(KEYS, [name], teacher=name == TEACHER)[name]


c.Spawner.pre_spawn_hook = give_key
c.Spawner.post_stop_hook = take_key
c.Spawner.default_url = "/lab/tree/notebooks/00_start_here.ipynb"
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
c.Spawner.env_keep = ["PATH", "LANG", "LC_ALL", "LLAMA_NOTEBOOKS_CACHE", "SSL_CERT_FILE"]
# A kernel of the same name in a learner's home must not stand in for the suite's.
c.Spawner.environment = {"JUPYTER_PREFER_ENV_PATH": "1", "PYTHONPATH": str(SUITE)}
c.Spawner.args = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
c.Spawner.start_timeout = c.Spawner.http_timeout = 120
