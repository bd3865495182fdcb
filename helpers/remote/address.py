"""Where a server is, and the key that it knows this user by, which is never shown or written."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import SecretStr

SERVER_VARIABLE = "LLAMA_NOTEBOOKS_SERVER"
KEY_VARIABLE = "LLAMA_NOTEBOOKS_KEY"

_REMEDY = 'Give its address as python -m helpers serve shows it, such as "http://127.0.0.1:8000".'


@dataclass(frozen=True)
class Address:
    """A server's address, and a key.

    A copy has the key, a pickle has not: there the key of the environment is used, if it is this
    server's.

    Args:
        url: Such as `http://127.0.0.1:8000`, or a place behind a proxy, such as
            `http://hub/services/llm`. The `/v1` of OpenAI's clients may stand at its end.
        key: The user's key; None where the server needs none.

    Raises:
        ValueError: The address is none.

    >>> Address("http://127.0.0.1:8000/v1/").url
    'http://127.0.0.1:8000'
    """

    url: str
    key: SecretStr | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", _plain(self.url))
        if self.key is not None:
            plain = self.key.get_secret_value().strip()  # as of a line that was read from a file
            if not plain or not plain.isascii() or not plain.isprintable() or " " in plain:
                raise ValueError(
                    "key=… cannot be a key: one has letters, digits and signs, and no blanks. "
                    "Copy it again as it was given to you."
                )
            object.__setattr__(self, "key", SecretStr(plain))

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def __copy__(self) -> Address:
        return self

    def __deepcopy__(self, memo: object) -> Address:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return (address_of, (self.url,))


def address_of(server: str, key: SecretStr | None = None) -> Address:
    """An address with the key that is given, or else with that of the environment.

    `LLAMA_NOTEBOOKS_KEY` is the key of `LLAMA_NOTEBOOKS_SERVER`: where that is another address, it
    is not sent.
    """
    address = Address(server, key)
    own, named = os.environ.get(KEY_VARIABLE), os.environ.get(SERVER_VARIABLE)
    if key is None and own and (not named or Address(named).url == address.url):
        return Address(server, SecretStr(own))
    return address


def _plain(text: str) -> str:
    """The address in one spelling."""
    if not isinstance(text, str):
        raise TypeError(f"server must be a text (str), not {type(text).__name__}.")
    try:
        parts = urlsplit(text.strip())
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise ValueError(f"server={text!r} is no address: {error}. {_REMEDY}") from None
    if "@" in parts.netloc:  # shown nowhere: it may be a password
        raise ValueError(f"server=… has a user or a password in it: give key=… instead. {_REMEDY}")
    if parts.scheme not in ("http", "https") or not host or not text.isascii():
        raise ValueError(f"server={text!r} is no address of http or https. {_REMEDY}")
    if parts.query or parts.fragment or any(char.isspace() for char in text.strip()):
        raise ValueError(f"server={text!r} has more than a path behind the host. {_REMEDY}")
    host = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{path}"
