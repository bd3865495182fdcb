"""A kit over HTTP, for the machines in a room: its files alone, with ranges, many at a time."""

from __future__ import annotations

import html
import ipaddress
import socket
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from helpers.install.kit import MIB, SUMS, read_manifest, read_sums, sha256
from helpers.serve.private import private_host
from helpers.serve.running import BoundedProtocol

CONNECTIONS = 64
"""So many at a time; further ones are answered 503, and wait."""

_DIGITS = 16
_PAGE = """\
<!doctype html><meta charset="utf-8"><title>A kit</title>
<style>body {{ max-width: 46em; margin: 2em auto; font-family: sans-serif }}
pre {{ white-space: pre-wrap }}</style>
<p>Download <a href="suite.zip">suite.zip</a> into a folder of your own, open a terminal there, and
type (on Windows <code>py</code> for <code>python3</code>):</p>
<pre>{lines}</pre>
<p>Safari may have unpacked it by itself: then open the terminal in that folder, and type the last
line alone.</p>{site}<hr><pre>{start}</pre>"""


class _File(FileResponse):
    chunk_size = MIB  # fewer changes of thread than for the library's 64 KiB


def learners_lines(folder: Path, url: str) -> str:
    """The lines that a learner types; the digits hold the machine to this very kit."""
    digits = sha256(folder / SUMS)[:_DIGITS]
    return (
        "python3 -m zipfile -e suite.zip llama-notebooks\ncd llama-notebooks\n"
        f"python3 -m helpers lab --kit {url}/#{digits}"
    )


def make_app(folder: Path) -> Starlette:
    """Return the application that serves a kit.

    Raises:
        InstallError: If the folder is no kit, or its manifest is damaged.
    """
    sums = read_sums(folder)
    read_manifest(folder, sums)
    files = {name: folder / name for name in (*sums, SUMS)}

    async def page(request: Request) -> Response:
        url = str(request.base_url).rstrip("/")
        site = '<p><a href="site/index.html">Read the suite</a></p>'
        return HTMLResponse(
            _PAGE.format(
                lines=html.escape(learners_lines(folder, url)),
                site=site if "site/index.html" in files else "",
                start=html.escape((folder / "START.md").read_text(encoding="utf-8")),
            )
        )

    async def file(request: Request) -> Response:
        # A lookup and no path: nothing else in the folder or above it can be named.
        path = files.get(request.path_params["name"])
        if path is None or not path.is_file():
            raise HTTPException(404, "the kit has no such file")
        return _File(path)

    return Starlette(routes=[Route("/", page), Route("/{name:path}", file)])


def serve(folder: Path, host: str, port: int) -> int:
    """Serve a kit until it is interrupted.

    Raises:
        InstallError: If it is no kit, or the address is none for a server without a lock.
        OSError: If the address is not this machine's, or the port is taken.
    """
    folder = folder.expanduser().resolve()
    host = private_host(host, "the kit's server")
    app = make_app(folder)
    bound = socket.create_server((host, port))
    url = f"http://{host}:{bound.getsockname()[1]}"
    alone = ipaddress.ip_address(host).is_loopback
    print(
        f"The kit {folder} is served at {url}/ (end it with Ctrl-C)."
        + ("\nOnly this machine reaches it: for a room, give its address there, as --host." * alone)
        + "\nLearners open that page, download suite.zip, and type in its folder (Windows: py):\n"
        + learners_lines(folder, url),
        flush=True,
    )
    config = uvicorn.Config(
        app, http=BoundedProtocol, ws="none", log_level="warning", access_log=False,
        server_header=False, proxy_headers=False, limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=5,
    )  # fmt: skip
    uvicorn.Server(config).run([bound])
    return 0
