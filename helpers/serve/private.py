"""Where a server without a lock may listen: this machine, or a private network by name."""

from __future__ import annotations

import ipaddress

from helpers.errors import InstallError

_PRIVATE = {
    "127.0.0.0/8": "this machine alone",
    "10.0.0.0/8": "a private network",
    "172.16.0.0/12": "a private network",
    "192.168.0.0/16": "a private network",
    "169.254.0.0/16": "a cable between two machines (link-local)",
    "100.64.0.0/10": "an overlay such as Tailscale, or a provider's network",
}


def private_host(host: str, server: str, advice: str = "") -> str:
    """The address to listen at, as numbers.

    Args:
        host: What the user named.
        server: What is to listen there, for the message.
        advice: What else can be done, for the message.

    Raises:
        InstallError: It is none that a server without a lock may listen at.
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise InstallError(
            f"--host {host} is not an address. Give this machine's own in the private network as "
            "numbers, for example 192.168.1.20; a name may stand for several"
        ) from None
    if address.version == 6:
        raise InstallError(f"--host {host}: {server} speaks IPv4 alone")
    if any(address in ipaddress.ip_network(network) for network in _PRIVATE):
        return str(address)
    kind = "every network of this machine" if address.is_unspecified else "the open internet"
    known = ", ".join(f"{network} ({what})" for network, what in _PRIVATE.items())
    raise InstallError(
        f"--host {host} would open the server to {kind}, and it has no lock. Name one private "
        f"address of this machine: {known}{advice}"
    )
