"""The practice accelerator: layers really move, nothing is orphaned, nothing kills the kernel."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from helpers import (
    Device,
    DeviceError,
    EngineCrashed,
    LlamaCpp,
    default_model,
    devices,
    practice_accelerator,
    predict_memory,
    suggest_gpu_layers,
)
from helpers.children import Child
from helpers.load_options import LoadOptions
from helpers.memory.planner import Planner
from helpers.native import practice_split
from helpers.native.practice import ask
from tests.support import gone

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    with practice_accelerator() as found:
        yield found


def model(device: Device, **settings: Any) -> LlamaCpp:
    settings = {"n_ctx": 512, "temperature": 0, "max_tokens": 12, **settings}
    return LlamaCpp(model_path=default_model(), devices=[device], **settings)


def test_layers_move_and_the_text_stays(device: Device) -> None:
    with LlamaCpp(model_path=default_model(), n_ctx=512, temperature=0, max_tokens=12) as llm:
        expected = llm.invoke(PROMPT)
    for layers in (0, 1, 15, 30, 31, -1):
        with model(device, n_gpu_layers=layers) as llm:
            assert llm.invoke(PROMPT) == expected
            report = llm.load_report
            assert report.n_gpu_layers == (31 if layers == -1 else layers)
            assert report.n_layers == 31
            assert report.isolated == (layers != 0)
            if layers:
                assert f"offloaded {report.n_gpu_layers}/31 layers to GPU" in llm.native_log
                assert report.by_device[device.name]["weights"] > 0


def test_it_is_never_in_this_process(device: Device) -> None:
    assert all(found.backend != "RPC" for found in devices())
    with pytest.raises(DeviceError, match="another process"):
        model(device, n_gpu_layers=5, isolate=False)


def test_two_models_use_one_accelerator_at_the_same_time(device: Device) -> None:
    with model(device, n_gpu_layers=5) as first, model(device, n_gpu_layers=20) as second:
        assert first.invoke(PROMPT) == second.invoke(PROMPT)
        assert first.load_report.n_gpu_layers == 5
        assert second.load_report.n_gpu_layers == 20


def test_two_accelerators_share_a_model() -> None:
    with practice_accelerator() as one, practice_accelerator() as two:
        with LlamaCpp(
            model_path=default_model(),
            devices=[one, two],
            n_gpu_layers=-1,
            n_ctx=512,
            temperature=0,
            max_tokens=12,
        ) as llm:
            held = {name: kinds["weights"] for name, kinds in llm.load_report.by_device.items()}
            assert "Paris" in llm.invoke(PROMPT)
        assert min(held[one.name], held[two.name]) > 20


def test_accelerators_of_different_size_take_layers_by_their_memory() -> None:
    with practice_accelerator(300) as large, practice_accelerator(100) as small:
        both = [large, small]
        plan = predict_memory(n_ctx=512, devices=both)
        assert plan.layers_on[large.name] > 2 * plan.layers_on[small.name] > 0
        with LlamaCpp(model_path=default_model(), devices=both, n_gpu_layers=-1, n_ctx=512) as llm:
            for name, kinds in llm.load_report.by_device.items():
                expected = plan.by_device[name]
                assert kinds["weights"] == pytest.approx(expected["weights"], abs=0.5)
                assert kinds["kv"] == pytest.approx(expected["kv"], abs=0.5)
                # llama.cpp's simulation lays a graph over two devices out with some MiB too many.
                assert -0.5 < expected["compute"] - kinds["compute"] < 6


@pytest.mark.parametrize(
    ("endpoints", "split"),
    [
        (["practice:a:1", "practice:b:2"], (300.0, 100.0)),
        (["practice:a:1", "b:2"], None),
        (["a:1", "b:2"], None),
        (["practice:a:1", None], None),
        (["practice:a:1"], None),
        ([], None),
    ],
)
def test_only_practice_accelerators_share_by_what_they_were_given(
    endpoints: list[str | None], split: tuple[float, ...] | None
) -> None:
    devices = [
        Device(f"RPC{index}", "a server", "gpu", "RPC", total, 100.0, endpoint)
        for index, (endpoint, total) in enumerate(zip(endpoints, (300.0, 100.0), strict=False))
    ]
    totals = [device.total_mib for device in devices]
    assert practice_split([(d.name, d.endpoint) for d in devices], totals) == split
    assert (
        Planner(LoadOptions(model_path=str(default_model()), n_ctx=512), devices)._practice_split()
        == split
    )


def test_plain_rpc_servers_take_layers_as_gpus_do() -> None:
    servers = Child("helpers.native.practice_server_child", "0", role="served")
    with contextlib.closing(servers):
        memory = servers.ask(["memory"])
        endpoints = [f"127.0.0.1:{servers.ask(['serve'])['port']}" for _ in range(2)]
        # In all, one is three times the other; what counts is what is free, which is the same.
        both = [
            Device(f"RPC{i}", "a server", "gpu", "RPC", total, memory["free_mib"], endpoint)
            for i, (total, endpoint) in enumerate(zip((30_000, 10_000), endpoints, strict=True))
        ]
        plan = predict_memory(n_ctx=512, devices=both, n_gpu_layers=-1)
        with LlamaCpp(model_path=default_model(), devices=both, n_gpu_layers=-1, n_ctx=512) as llm:
            for name, kinds in llm.load_report.by_device.items():
                assert kinds["weights"] == pytest.approx(plan.by_device[name]["weights"], abs=0.5)


def test_it_ends_with_its_block_and_so_do_its_models() -> None:
    accelerator = practice_accelerator()
    with accelerator as device:
        pid = accelerator.pid
        assert pid is not None
        llm = model(device, n_gpu_layers=5)
        assert accelerator.start() is device
    assert gone(pid)
    assert accelerator.device is None
    with pytest.raises((EngineCrashed, DeviceError)):
        llm.invoke(PROMPT)
    with pytest.raises(DeviceError, match=r"No practice accelerator answers.*Start it again"):
        llm.invoke(PROMPT)
    with pytest.raises(DeviceError, match="No practice accelerator answers"):
        suggest_gpu_layers(devices=[device])
    llm.close()


def test_a_server_that_dies_in_the_middle_is_an_exception() -> None:
    accelerator = practice_accelerator()
    device = accelerator.start()
    with model(device, n_gpu_layers=-1, max_tokens=400) as llm:
        stream = llm.stream(PROMPT)
        next(stream)
        assert accelerator.pid is not None
        os.kill(accelerator.pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        with pytest.raises(EngineCrashed, match="RPC server was lost"):
            list(stream)
    accelerator.close()


STRANGER = """
import encodings.idna, os, socket, sys
if hasattr(os, "geteuid") and os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)

def connect(port=int(sys.argv[1])):
    return socket.create_connection(("127.0.0.1", port), timeout=60)

def answer(raw):
    with connect() as client:
        try:
            client.sendall(raw)
            return client.recv(100)
        except (BrokenPipeError, ConnectionResetError):
            return b""
"""


def stranger(device: Device, script: str, *arguments: object) -> str:
    """What a program without the token prints; another user's, where the tests are root's."""
    address = device.name.partition(":")[2].rstrip("]")
    command = [sys.executable, "-c", STRANGER + script, address, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert not done.stderr
    return done.stdout.strip()


def test_strangers_get_no_answer(device: Device) -> None:
    assert device.endpoint is not None
    token = device.endpoint.removeprefix("practice:").partition("@")[0]
    assert len(token) == 32 and token not in repr(device) + str(device)
    lines = ["memory\n", "serve\n", f"{'0' * 32} serve\n", f"{token[:-1]} serve\n", f"{token}\n"]
    lines += ["\n", "\0" * 64, "é" * 40, "x" * 1000]
    script = f"print([answer(line.encode()) for line in {lines!r}])"
    assert stranger(device, script) == str([b""] * len(lines))
    # Who can read the endpoint is the owner.
    assert ask(device.endpoint, "memory")["total_mib"] > 0


def test_strangers_neither_fill_the_memory_nor_keep_the_owner_out() -> None:
    accelerator = practice_accelerator()
    with accelerator as device:
        broker = psutil.Process(accelerator.pid)
        before = broker.memory_info().rss
        flood = "print(sum(bool(answer(bytes(300 << 20))) for _ in range(2)))"
        assert stranger(device, flood) == "0"
        assert broker.memory_info().rss - before < 50 << 20
        script = """
silent = [connect() for _ in range(60)]
closed = 0
for client in silent:
    client.settimeout(0.2)
    try:
        closed += client.recv(1) == b""
    except TimeoutError:
        pass
print(closed >= 20, flush=True)
input()
"""
        address = device.name.partition(":")[2].rstrip("]")
        with subprocess.Popen(
            [sys.executable, "-c", STRANGER + script, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as silent:
            assert silent.stdout is not None and silent.stdin is not None
            assert silent.stdout.readline() == "True\n"
            with model(device, n_gpu_layers=3) as llm:
                assert "Paris" in llm.invoke(PROMPT)
            silent.stdin.close()


@pytest.mark.skipif(sys.platform == "win32", reason="a port cannot be closed from outside there")
def test_the_ports_behind_it_are_closed_to_strangers(device: Device) -> None:
    servers = [
        p
        for p in psutil.Process().children(recursive=True)
        if "helpers.native.practice_server_child" in p.cmdline()
    ]

    def ports(status: str) -> set[int]:
        found = [c for process in servers for c in process.net_connections("tcp")]
        return {c.laddr.port for c in found if c.status == status}

    assert not ports("LISTEN")
    with model(device, n_gpu_layers=3) as one, model(device, n_gpu_layers=5) as two:
        used = ports("ESTABLISHED")
        assert len(used) >= 2 and not ports("LISTEN")
        script = """
for port in map(int, sys.argv[2:]):
    try:
        connect(port)
    except ConnectionRefusedError:
        print("refused", end=" ")
"""
        assert stranger(device, script, *used).split() == ["refused"] * len(used)
        assert one.invoke(PROMPT) == two.invoke(PROMPT)
    assert not ports("LISTEN")


CHILD = """
import os, signal, sys
from helpers import practice_accelerator
from tests.support import gone
accelerator = practice_accelerator()
accelerator.start()
print(accelerator.pid, flush=True)
if sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("way", ["exit", "kill"])
def test_it_ends_with_the_interpreter_whatever_happens_to_that(way: str) -> None:
    if way == "kill" and sys.platform == "win32":
        pytest.skip("Windows has no SIGKILL")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, way], capture_output=True, text=True, check=False
    )
    assert gone(int(done.stdout)), done.stderr


def test_a_small_one_takes_what_fits_and_refuses_more() -> None:
    with practice_accelerator(memory_mib=100) as small:
        assert small.total_mib == 100
        assert 95 < small.free_mib <= 100
        layers = suggest_gpu_layers(devices=[small], n_ctx=2048)
        assert 0 < layers < 31
        with model(small, n_ctx=2048) as llm:  # n_gpu_layers="auto" is the default
            assert llm.load_report.n_gpu_layers == layers
            assert "Paris" in llm.invoke(PROMPT)
            assert suggest_gpu_layers(devices=[small], n_ctx=2048) == 0
        if sys.platform == "linux":
            with pytest.raises((DeviceError, EngineCrashed), match="fewer n_gpu_layers"):
                model(small, n_ctx=8192, n_gpu_layers=-1)
            # The device outlives it, also where its server has died of it.
            with model(small, n_ctx=512, n_gpu_layers=3) as llm:
                assert "Paris" in llm.invoke(PROMPT)


@pytest.mark.parametrize("mib", [0, -1, float("nan"), float("inf"), "100"])
def test_sizes_without_meaning(mib: Any) -> None:
    with pytest.raises(ValueError, match="memory_mib"):
        practice_accelerator(mib)


def test_a_library_without_rpc_names_the_backend_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from helpers.native import rpc_servers

    monkeypatch.setattr(rpc_servers, "ggml", lambda _name: None)
    with pytest.raises(DeviceError, match="--backend rpc"):
        practice_accelerator().start()
