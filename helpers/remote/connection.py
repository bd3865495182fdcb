"""HTTP as a client of `helpers serve` needs it: it waits where it is told to, and says what failed.

What a server answers is an object or an exception of ours. A connection that breaks is a
`ServerError`, and so is an answer from something that is no server of ours.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from helpers.errors import ServerError
from helpers.remote.address import Address
from helpers.remote.codec import error_from_json, parse_json, write_json

PATIENCE = 60.0
"""Seconds that a request is tried again while the server is busy and answers none of ours."""
SILENCE = 600.0
"""Seconds without a byte after which a server counts as gone: a queue and a long prompt take long,
a machine without power says nothing for ever."""

_CONNECT = 10.0
_IDLE = 3.0
"""Seconds that a connection is kept; uvicorn closes its end after five."""
_BUSY = (429, 503)
_LARGEST = 2**26
"""Bytes of an answer, or of a line of a stream."""

DONE = object()
"""What the last of `Connection.events` is: the server has said that the stream is whole."""


class Connection:
    """The connections to one server; used in one event loop.

    Args:
        address: Where it is.
    """

    def __init__(self, address: Address) -> None:
        self.url = address.url
        self.patience = PATIENCE
        headers = {"User-Agent": "llama-notebooks"}
        if address.key is not None:
            headers["Authorization"] = f"Bearer {address.key.get_secret_value()}"
        self._keyed = address.key is not None
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(SILENCE, connect=_CONNECT, pool=None),
            limits=httpx.Limits(max_keepalive_connections=8, keepalive_expiry=_IDLE),
            trust_env=not address.is_loopback,  # a proxy of the environment leads elsewhere
            verify=self.url.startswith("https:"),  # else the certificates are read for nothing
        )
        self._answered = 0.0  # when the server has last taken a request, or ended one

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def json(self, path: str, body: Any = None) -> Any:
        """What the server answers to a GET, or to a POST of a body."""
        raw = await self.raw(path, body)
        try:
            return parse_json(raw)
        except ValueError as error:
            raise self._foreign(f"{path} answers no JSON ({error})") from None

    async def raw(self, path: str, body: Any = None, largest: int = _LARGEST) -> bytes:
        """The same as the bytes that come.

        Args:
            path: Below the server's address.
            body: What is sent, as JSON; None for a GET.
            largest: Most bytes of an answer.
        """
        async with self._answer(path, body) as response:
            return await self._read(response, largest)

    async def events(self, path: str, body: Any) -> AsyncGenerator[Any]:
        """What a stream tells, and `DONE` as its last item.

        Raises:
            ServerError: It ended without that.
        """
        done = False
        async with self._answer(path, body) as response:
            kind = response.headers.get("content-type", "")
            if not kind.startswith("text/event-stream"):
                raise self._foreign(f"{path} answers {kind or 'something'} in place of a stream")
            rest = bytearray()
            try:
                async for piece in response.aiter_bytes():
                    rest += piece
                    if len(rest) > _LARGEST:
                        raise self._foreign("a line of its stream has no end")
                    if b"\n" not in piece:
                        continue
                    *lines, rest = rest.split(b"\n")
                    for line in lines:
                        if done or not line.startswith(b"data:"):
                            continue
                        data = bytes(line[5:].strip())
                        done = data == b"[DONE]"
                        yield DONE if done else self._parsed(data)
            except httpx.HTTPError as error:
                if not done:
                    raise self._broken(error) from None
        self._note()
        if not done:
            raise self._broken(None)

    # -- requests ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def _answer(self, path: str, body: Any) -> AsyncIterator[httpx.Response]:
        """The response to a request that the server takes, sooner or later."""
        content = None if body is None else _written(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        method = "GET" if body is None else "POST"
        clock = asyncio.get_running_loop().time
        begun, fresh = clock(), False
        while True:
            request = self._client.build_request(
                method, self.url + path, content=content, headers=headers
            )
            try:
                response = await self._client.send(request, stream=True)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
                if fresh:
                    raise self._unreachable(error) from None
                fresh = True  # it has closed a connection that was kept, before it saw the request
                continue
            except httpx.HTTPError as error:
                raise self._unreachable(error) from None
            if response.status_code == 200:
                break
            refusal = await self._refusal(response)
            pause = refusal.retry_after if isinstance(refusal, ServerError) else None
            if response.status_code not in _BUSY or pause is None:
                raise refusal
            if clock() + pause - max(begun, self._answered) > self.patience:
                raise refusal
            await asyncio.sleep(pause)
        self._note()
        try:
            yield response
        finally:
            await response.aclose()

    def _note(self) -> None:
        self._answered = asyncio.get_running_loop().time()

    async def _read(self, response: httpx.Response, largest: int) -> bytes:
        data = bytearray()
        try:
            async for piece in response.aiter_bytes():
                data += piece
                if len(data) > largest:
                    raise self._foreign(f"an answer has more than {largest:,} bytes")
        except httpx.HTTPError as error:
            raise self._broken(error) from None
        return bytes(data)

    async def _refusal(self, response: httpx.Response) -> Exception:
        """What an answer other than 200 stands for."""
        try:
            raw = await self._read(response, _LARGEST)
        finally:
            await response.aclose()
        status = response.status_code
        if response.is_redirect:
            return self._foreign(
                f"it sends to {response.headers.get('location', '')[:200]!r}, as a login does",
                status=status,
            )
        try:
            body = parse_json(raw)
        except ValueError:
            body = raw.decode("utf-8", "replace")
        error = error_from_json(status, body, response.headers)
        if isinstance(error, ServerError) and status == 401:
            remedy = (
                "The key that was sent is not one of its keys"
                if self._keyed
                else "No key was sent: give key=…, or set LLAMA_NOTEBOOKS_KEY"
            )
            return ServerError(f"{self.url}: {error} {remedy}.", status=status, code=error.code)
        if isinstance(error, ServerError) and status == 404 and error.code in (None, "not_found"):
            return self._foreign("it does not know the path", status=status)
        return error

    def _parsed(self, data: bytes) -> Any:
        try:
            return parse_json(data)
        except ValueError as error:
            raise self._foreign(f"a line of its stream is no JSON ({error})") from None

    # -- what has failed --------------------------------------------------------------------------

    def _foreign(self, what: str, status: int | None = None) -> ServerError:
        return ServerError(
            f"What answers at {self.url} is no server of python -m helpers serve: {what}. Check "
            "the address; behind a proxy it has a path, such as http://hub/services/llm.",
            status=status,
        )

    def _broken(self, error: Exception | None) -> ServerError:
        reason = "" if error is None else f" ({_reason(error)})"
        return ServerError(
            f"The server at {self.url} broke off in the midst of an answer{reason}. What has come "
            "of it is not whole. Ask again."
        )

    def _unreachable(self, error: Exception) -> ServerError:
        if isinstance(error, httpx.ReadTimeout):
            return ServerError(f"The server at {self.url} said nothing for {SILENCE:.0f} s.")
        hint = "Is it running (python -m helpers serve), and is the address right?"
        if isinstance(error.__context__, ssl.SSLError) or "SSL" in str(error):
            hint = (
                "Where it speaks plain http, the address begins with http://. A certificate that "
                "the system does not know is named by SSL_CERT_FILE."
            )
        return ServerError(f"No server answers at {self.url} ({_reason(error)}). {hint}")


def _written(body: Any) -> bytes:
    """A body in UTF-8, of which a server takes more; half a surrogate pair needs ASCII."""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError:
        return write_json(body)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
