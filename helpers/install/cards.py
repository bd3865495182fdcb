"""Your card, your line: which backend serves which graphics card, and what to type for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from helpers.errors import InstallError
from helpers.install.backends import BACKENDS, CUDA_INDEXES
from helpers.install.commands import SHELLS, install_command, nearest
from helpers.install.detect import Machine, look_at_machine, wheel_index
from helpers.install.paths import current_system
from helpers.tables import Code, html_table

# Card -> backends that serve it, the best first; a name for people; how to see that it is there.
_CARDS = {
    "nvidia": ("NVIDIA GeForce, RTX, data centre", ("cuda", "vulkan"), "nvidia-smi"),
    "amd": ("AMD Radeon, Instinct", ("rocm", "vulkan"), "rocminfo, or vulkaninfo --summary"),
    "intel": ("Intel Arc, Iris Xe", ("sycl", "vulkan"), "sycl-ls, or vulkaninfo --summary"),
    "apple": ("Apple M series", ("metal",), "sysctl -n machdep.cpu.brand_string"),
    "none": ("no graphics card, or an old one", ("cpu", "openblas"), ""),
}

_USUAL = {"linux": "x86_64", "macos": "arm64", "windows": "amd64"}


@dataclass(frozen=True)
class CardLine:
    """What to type for one kind of card with one backend.

    Attributes:
        card: The card, in words.
        backend: Name in `BACKENDS`.
        see: Command that shows whether the card is there.
        prebuilt: The line that takes a prebuilt wheel, or an empty text if there is none.
        source: The line that builds from source.
        limits: What must be known before the prebuilt wheel is chosen.
    """

    card: str
    backend: str
    see: str
    prebuilt: str
    source: str
    limits: tuple[str, ...]

    @property
    def line(self) -> str:
        """The line to try first."""
        return self.prebuilt or self.source

    def __str__(self) -> str:
        """Return a small block of lines."""
        lines = [f"{self.card}: {BACKENDS[self.backend].title}"]
        lines += [f"  see it:   {self.see}"] if self.see else []
        lines += [f"  prebuilt: {self.prebuilt}"] if self.prebuilt else []
        return "\n".join([*lines, f"  source:   {self.source}"])


class CardTable(tuple[CardLine, ...]):
    """Lines for cards, shown as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        """Return the blocks of all cards."""
        return "\n".join(str(line) for line in self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the table for Jupyter."""
        names = ("your card", "backend", "your line", "how to see the card")
        return html_table(
            dict.fromkeys(names, "<"),
            [(it.card, BACKENDS[it.backend].title, Code(it.line), Code(it.see)) for it in self],
        )


def card_lines(
    card: str | None = None,
    system: str | None = None,
    shell: str | None = None,
    *,
    cuda: tuple[int, int] | None = None,
    capability: tuple[int, int] | None = None,
    python: str = "python",
) -> CardTable:
    """Return what to type for each kind of card, or for one.

    Args:
        card: `nvidia`, `amd`, `intel`, `apple` or `none`; None for all that the system has.
        system: `linux`, `macos` or `windows`; None means this one.
        shell: The shell that the lines are for; None means the system's usual one.
        cuda: CUDA version that the NVIDIA driver supports (nvidia-smi prints it); None takes this
            machine's, or else the newest index.
        capability: The NVIDIA card's compute capability; None takes this machine's, or else asks
            nothing of the card.
        python: The Python to install into.

    Raises:
        InstallError: If a name is unknown, or no backend serves such a card on that system.

    >>> card_lines("nvidia", "linux", "bash", cuda=(12, 4))[0].prebuilt.split("/")[-1]
    'cu124 llama-cpp-python'
    """
    where = system or current_system()
    if where not in SHELLS:
        raise InstallError(nearest(where, list(SHELLS), "system"))
    if card is not None and card not in _CARDS:
        raise InstallError(nearest(card, list(_CARDS), "kind of card"))
    machine = look_at_machine() if where == current_system() else Machine(where, _USUAL[where])
    # Of a driver that is not known, the newest is assumed.
    machine = replace(
        machine,
        cuda=cuda or machine.cuda or CUDA_INDEXES[-1][1],
        capability=capability or machine.capability,
    )
    found = []
    for title, backends, see in [_CARDS[card]] if card else _CARDS.values():
        for backend in backends:
            if where not in BACKENDS[backend].systems:
                continue
            line = partial(install_command, backend, where, shell, python=python)
            index, wheels = wheel_index(backend, machine), BACKENDS[backend].wheels
            prebuilt = line(prebuilt=True, index=index) if index else ""
            limits = wheels.limits if wheels and index else ()
            found.append(CardLine(title, backend, see, prebuilt, line(), limits))
    if not found:
        raise InstallError(f"No backend serves a card of kind {card!r} on {where}: take 'none'.")
    return CardTable(found)
