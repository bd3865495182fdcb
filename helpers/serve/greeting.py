"""What `python -m helpers serve` says when it is ready: where it is and how to ask it."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from helpers.serve.house import House
from helpers.serve.keys import Key

_EVERYWHERE = ("0.0.0.0", "::")


def greeting(house: House, url: str, owners: Sequence[Key]) -> str:
    """The lines for a terminal.

    Args:
        house: The server.
        url: Its address.
        owners: Who has keys; empty where there are none.
    """
    settings, served = house.settings, house.served
    report = served.chat.load_report
    asked = url
    for address in _EVERYWHERE:
        asked = asked.replace(f"//{address}:", f"//{_own_address()}:")
        asked = asked.replace(f"//[{address}]:", f"//{_own_address()}:")
    memory = ", ".join(
        f"{name} {sum(kinds.values()):,.0f} MiB" for name, kinds in report.by_device.items()
    )
    key = 'key="KEY"' if owners else ""
    bearer = ' -H "Authorization: Bearer KEY"' if owners else ""
    teachers = [one.name for one in owners if one.teacher]
    page = f"{asked}/"
    if owners:
        page += (
            f" (asks for the key of {' or '.join(teachers)})"
            if teachers
            else " (needs a teacher's key: serve keys add NAME --teacher)"
        )
    lines = [
        f"Serving {served.name} ({report.description}) on {url}",
        "",
        f"  answers     {settings.n_parallel} side by side, {settings.queue} may wait; "
        f"{served.n_ctx:,} tokens of context each",
        f"  memory      {memory}",
        f"  devices     {report.n_gpu_layers} of {report.n_layers} layers",
        f"  keys        {len(owners)} in {settings.keys}"
        if owners
        else "  keys        none: whoever can log in to this machine may ask",
        f"  page        {page}",
        "",
        "Ask it from Python, as any other model here:",
        "",
        "    from helpers import ChatLlamaCpp",
        f'    chat = ChatLlamaCpp(server="{asked}"{", " + key if key else ""})',
        "",
        "or with OpenAI's client:",
        "",
        "    from openai import OpenAI",
        f'    client = OpenAI(base_url="{asked}/v1", api_key="{"KEY" if owners else "none"}")',
        f'    client.chat.completions.create(model="{served.name}",',
        '        messages=[{"role": "user", "content": "Hello!"}])',
        "",
        "or from a shell:",
        "",
        f"    curl {asked}/v1/chat/completions{bearer} -H 'Content-Type: application/json' \\",
        """      -d '{"messages": [{"role": "user", "content": "Hello!"}]}'""",
        "",
        "Ctrl-C ends it after the running answers.",
    ]
    return "\n".join(lines)


def _own_address() -> str:
    """The address under which others reach this machine, as far as it knows; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("10.255.255.255", 1))
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()
