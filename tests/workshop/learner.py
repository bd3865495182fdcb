"""A learner of the class: logs in at the hub, starts a notebook server, runs cells in a kernel."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import nbformat
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

_PATIENCE = 180.0


class Learner:
    """A user of the hub, as their browser sees it.

    Args:
        url: The hub's public address.
        name: The user's name.
        password: What they log in with.
    """

    def __init__(self, url: str, name: str, password: str) -> None:
        self.url, self.name = url, name
        self._web = httpx.AsyncClient(base_url=url, follow_redirects=True, timeout=_PATIENCE)
        self._password = password
        self._token = ""

    async def __aenter__(self) -> Learner:
        try:
            await self._log_in()
        except BaseException:
            await self._web.aclose()
            raise
        return self

    async def _log_in(self) -> None:
        await self._web.get("/hub/login")
        form = {"username": self.name, "password": self._password}
        answer = await self._web.post("/hub/login", params=self._xsrf, data=form)
        assert self._logged_in, f"{answer.status_code}: {self.name} could not log in"
        answer = await self._web.post(
            f"/hub/api/users/{self.name}/tokens", headers=self._own_site, json={}
        )
        assert answer.status_code == 201, answer.text
        self._token = answer.json()["token"]

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._web.aclose()

    @property
    def _xsrf(self) -> dict[str, str]:
        found = [one.value for one in self._web.cookies.jar if one.name == "_xsrf"]
        return {"_xsrf": found[-1] or ""} if found else {}

    @property
    def _logged_in(self) -> bool:
        return any(one.name == "jupyterhub-session-id" for one in self._web.cookies.jar)

    @property
    def _own_site(self) -> dict[str, str]:
        return {"X-XSRFToken": self._xsrf.get("_xsrf", ""), "Referer": f"{self.url}/hub/home"}

    @property
    def _auth(self) -> dict[str, str]:
        return {"Authorization": f"token {self._token}"}

    async def start(self) -> None:
        """Start the notebook server and wait until it answers through the proxy."""
        path = f"/hub/api/users/{self.name}/server"
        answer = await self._web.post(path, headers=self._auth)
        assert answer.status_code in (201, 202), answer.text
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            answer = await self._web.get(f"/user/{self.name}/api/status", headers=self._auth)
            if answer.status_code == 200 and "started" in answer.text:
                return
            await asyncio.sleep(0.2)
        raise TimeoutError(f"The notebook server of {self.name} did not start.")

    async def stop(self) -> None:
        """End the notebook server."""
        await self._web.delete(f"/hub/api/users/{self.name}/server", headers=self._auth)

    async def run(self, cells: list[str], folder: str = "notebooks") -> list[str]:
        """Run cells in a fresh kernel of the notebook server, each to its end.

        Args:
            cells: Python source of each.
            folder: Where the kernel starts.

        Returns:
            What each cell printed.

        Raises:
            RuntimeError: A cell raised.
        """
        base = f"/user/{self.name}/api/"
        given = {"path": f"{folder}/cells.ipynb", "type": "notebook", "name": "cells",
                 "kernel": {"name": "python3"}}  # fmt: skip
        answer = await self._web.post(f"{base}sessions", headers=self._auth, json=given)
        assert answer.status_code == 201, answer.text
        kernel = answer.json()["kernel"]["id"]
        address = f"{self.url}{base}kernels/{kernel}/channels".replace("http", "ws", 1)
        socket = await websocket_connect(HTTPRequest(address, headers=self._auth))
        try:
            return [await self._execute(socket, source) for source in cells]
        finally:
            socket.close()
            await self._web.delete(f"{base}kernels/{kernel}", headers=self._auth)

    async def _execute(self, socket: Any, source: str) -> str:
        number, printed, done = uuid.uuid4().hex, "", set[str]()
        header = {"msg_id": number, "msg_type": "execute_request", "username": self.name,
                  "session": number, "version": "5.3", "date": ""}  # fmt: skip
        content = {"code": source, "silent": False, "store_history": True,
                   "user_expressions": {}, "allow_stdin": False, "stop_on_error": True}  # fmt: skip
        await socket.write_message(
            json.dumps(
                {
                    "header": header,
                    "parent_header": {},
                    "metadata": {},
                    "content": content,
                    "channel": "shell",
                    "buffers": [],
                }
            )
        )
        while done != {"idle", "reply"}:
            raw = await socket.read_message()
            if raw is None:
                raise RuntimeError(f"The kernel of {self.name} went away.")
            message = json.loads(raw)
            if message["parent_header"].get("msg_id") != number:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                printed += content["text"]
            elif kind == "error":
                raise RuntimeError("\n".join(content["traceback"]))
            elif kind == "execute_reply":
                done.add("reply")
            elif kind == "status" and content["execution_state"] == "idle":
                done.add("idle")
        return printed


def cells_of(notebook: Path) -> list[str]:
    """The code of a notebook."""
    return [cell.source for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]
