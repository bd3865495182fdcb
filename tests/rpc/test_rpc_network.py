"""Between two network namespaces: a link as predicted, and a cable that is cut."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
import pytest_socket

from helpers import DeviceError, EngineCrashed, remote_device
from tests.rpc.record_links import measure
from tests.rpc.support import FAR, PROMPT, Lent, far_machine, model, run, why_no_namespaces

_WHY_NOT = why_no_namespaces()
pytestmark = pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT or "there are namespaces")
_CABLE = f"llnb-{os.getpid()}"


@pytest.fixture(autouse=True)
def _far(_no_other_machines: None) -> None:
    """The other machine is within this one."""
    pytest_socket.socket_allow_hosts(["127.0.0.1", FAR], allow_unix_socket=True)


@pytest.fixture(scope="module")
def lent() -> Iterator[Lent]:
    with far_machine(_CABLE) as there, Lent(host=FAR, before=there) as server:
        yield server


def cable(state: str) -> None:
    """Cut the cable at the far end, or mend it: what is sent is lost, and nobody says so."""
    run(f"ip netns exec {_CABLE} ip link set cable {state}")


def test_a_link_is_as_predicted() -> None:
    for row in measure([(1, 1000)], [15], tokens=8, rounds=1):
        assert row["measured_ms"] > 0
        assert row["predicted_ms"] > row["cable_ms"]
        for what in ("up_bytes", "down_bytes", "round_trips"):
            assert row[what] == pytest.approx(row[f"predicted_{what}"], rel=0.2), what


@pytest.mark.parametrize("phase", ["prompt eval", "generation"])
def test_a_cable_that_is_cut_is_a_lost_host(lent: Lent, phase: str) -> None:
    device = remote_device(lent.address)
    with model(device, n_gpu_layers=-1, n_ctx=4096) as llm:
        expected = llm.invoke(PROMPT)
        stream = llm.stream("word " * 3500 if phase == "prompt eval" else PROMPT, max_tokens=3000)
        cut = threading.Timer(0.5, cable, ["down"])
        if phase == "generation":
            next(stream)
            cut.interval = 0
        cut.start()
        with pytest.raises(EngineCrashed, match=f"RPC server at {lent.address} was lost"):
            list(stream)
        with pytest.raises(DeviceError, match=f"No RPC server answers at {lent.address}"):
            llm.invoke(PROMPT)
        cable("up")
        assert llm.invoke(PROMPT) == expected
