"""What in a text gives away the machine it was made on: paths, package registry, name."""

from __future__ import annotations

import functools
import os
import re
import socket
from collections.abc import Iterator
from configparser import ConfigParser
from configparser import Error as ConfigError
from pathlib import Path
from urllib.parse import urlsplit

from helpers.install.backends import WHEEL_INDEX

ROOT = Path(__file__).resolve().parents[2]

_PATHS = re.compile(
    r"(?<![\w.:/])/(?:root|work|home/\w+|Users/\w+|tmp/\w+|private/(?:var|tmp)|var/folders)(?:/|\b)"
    r"|(?<![\w.:/])/(?:usr|opt|mnt|media|srv)/[\w.-]+/"
    r"|\b[A-Za-z]:\\+(?:Users|Windows|Program)"
)
_REGISTRIES = re.compile(
    r"Looking in (?:indexes|links)|https?://[^\s/]*@"
    # upstream's own wheels are no registry of this machine: every reader types that address
    rf"|(?:extra-)?index-url(?! {re.escape(WHEEL_INDEX)}/)"
    r"|https?://(?!pypi\.org/)[^\s/'\"]+/(?:[^\s'\"]*/)?simple\b"
    r"|https?://[\w.-]+\.(?:internal|local|lan|corp)\b"
)


def machine_traces_in(text: str) -> Iterator[str]:
    """Yield what in a text tells of one machine: its paths, its package registry, its name."""
    for pattern in (_PATHS, _REGISTRIES):
        for match in pattern.finditer(text):
            yield text[match.start() : match.end() + 20].split("\n")[0]
    for secret in _own_traces():
        if secret in text:
            yield secret


@functools.cache
def _own_traces() -> tuple[str, ...]:
    """What would give this very machine away; asked of it, so that no name is written here."""
    found = {str(ROOT), str(Path.home()), socket.gethostname()}
    urls = [os.environ.get(name, "") for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")]
    urls += [os.environ.get(name, "") for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX")]
    for path in _pip_configs():
        config = ConfigParser(interpolation=None)
        try:
            config.read(path, encoding="utf-8")
        except (ConfigError, UnicodeDecodeError, OSError):
            continue
        urls += [
            value
            for section in config.sections()
            for key, value in config[section].items()
            if key.endswith("index-url")
        ]
    for url in " ".join(urls).split():
        host = urlsplit(url).hostname or ""
        if host not in ("", "localhost", "127.0.0.1"):
            found.add(host)
    public = {"localhost", "/", "/root"}  # /root is found by its pattern, as a path
    return tuple(sorted(trace for trace in found if len(trace) >= 5 and trace not in public))


def _pip_configs() -> list[Path]:
    home = Path.home()
    named = [Path(os.environ["PIP_CONFIG_FILE"])] if os.environ.get("PIP_CONFIG_FILE") else []
    return [
        *named,
        Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        home / ".config" / "pip" / "pip.conf",
        home / "Library" / "Application Support" / "pip" / "pip.conf",
        home / "pip" / "pip.ini",
        home / "AppData" / "Roaming" / "pip" / "pip.ini",
    ]
