"""The devices that a plan is for: those that take layers, and what is free on them now."""

from __future__ import annotations

from collections.abc import Sequence

from helpers.errors import DeviceError
from helpers.native import Device, ask
from helpers.native import devices as all_devices

METAL = ("Metal", "MTL")
"""What llama.cpp has called the backend of Apple's GPUs, whose memory is the system's own."""


def offload_devices() -> tuple[Device, ...]:
    """This machine's devices that take layers, in the order in which llama.cpp uses them."""
    found = [device for device in all_devices() if device.offloads]
    discrete = [device for device in found if device.kind == "gpu"]
    return tuple(discrete or found)


def checked_devices(devices: Sequence[Device]) -> tuple[Device, ...]:
    """The devices among some that take layers.

    Raises:
        TypeError: Something is not a `Device`.
        DeviceError: A device cannot take layers.
    """
    if isinstance(devices, Device):
        raise TypeError(f"devices must be a list: give [{devices.name}] in brackets.")
    for device in devices:
        if not isinstance(device, Device):
            raise TypeError(
                f"devices has {device!r}, which is not a Device. Take them from "
                "helpers.devices(), helpers.remote_device() or helpers.practice_accelerator()."
            )
        if not device.offloads and device.kind != "cpu":
            raise DeviceError(f"The device {device.name} ({device.kind}) cannot hold layers.")
    return tuple(device for device in devices if device.offloads)


def named_devices(pairs: Sequence[tuple[str, str | None]] | None) -> tuple[Device, ...]:
    """The devices behind an engine's `(name, endpoint)` pairs; None for this machine's.

    Raises:
        DeviceError: There is no such device.
    """
    if pairs is None:
        return offload_devices()
    here = {device.name: device for device in all_devices()}
    found = []
    for name, endpoint in pairs:
        if endpoint is not None:
            memory = ask(endpoint, "memory")
            found.append(
                Device(
                    name, endpoint, "gpu", "RPC", memory["total_mib"], memory["free_mib"], endpoint
                )
            )
        elif name in here:
            found.append(here[name])
        else:
            raise DeviceError(f"There is no device {name!r}. Devices here: {', '.join(here)}.")
    return checked_devices(found)


def free_mib(device: Device) -> float:
    """MiB free on a device now; for one that is not on this machine, what it says itself.

    Raises:
        DeviceError: Its server does not answer.
    """
    if device.endpoint is not None:
        return ask(device.endpoint, "memory")["free_mib"]
    return next((d.free_mib for d in all_devices() if d.name == device.name), device.free_mib)
