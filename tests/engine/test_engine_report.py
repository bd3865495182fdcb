from __future__ import annotations

import re

import pytest

from helpers.engine import Engine, LoadReport
from helpers.native import read_buffers, read_flash_attention, read_offloaded
from tests.support import options

# Lines as llama.cpp prints them when layers are placed on a GPU and on two remote devices.
GPU_LOG = """\
load_tensors: offloaded 20/31 layers to GPU
load_tensors:        CUDA0 model buffer size =    58.43 MiB
load_tensors:   CPU_Mapped model buffer size =    92.10 MiB
llama_kv_cache:      CUDA0 KV buffer size =    60.00 MiB
llama_kv_cache:        CPU KV buffer size =    30.00 MiB
llama_context:  CUDA_Host  output buffer size =     0.19 MiB
sched_reserve:      CUDA0 compute buffer size =    98.25 MiB
sched_reserve:  CUDA_Host compute buffer size =     5.13 MiB
sched_reserve: RPC0[127.0.0.1:50052] compute buffer size =    10.00 MiB
sched_reserve: Flash Attention was auto, set to enabled
llama_context: flash_attn    = disabled"""


def lines(text: str) -> list[tuple[int, str]]:
    return [(2, line) for line in text.splitlines()]


def test_buffers_are_read_by_device_and_kind() -> None:
    found = read_buffers(lines(GPU_LOG))
    assert found["CUDA0"] == {"weights": 58.43, "kv": 60.0, "compute": 98.25}
    assert found["CPU"] == pytest.approx({"weights": 92.10, "kv": 30.0, "compute": 5.32})
    assert found["RPC0[127.0.0.1:50052]"]["compute"] == 10.0
    assert read_offloaded(lines(GPU_LOG)) == (20, 31)
    assert read_flash_attention(lines(GPU_LOG)) is False
    assert read_flash_attention(lines("llama_context: flash_attn    = enabled")) is True


def test_the_report_is_what_the_log_says() -> None:
    with Engine(options(n_ctx=2048)) as engine:
        report, log = engine.load_report, engine.native_log
    sizes = re.findall(r"^\w+:\s+\S+\s+\w+ buffer size =\s*([\d.]+) MiB", log, re.MULTILINE)
    assert len(sizes) >= 3
    assert report.total_mib == pytest.approx(sum(map(float, sizes)))
    (weights,) = re.findall(r"model buffer size =\s*([\d.]+) MiB", log)
    (kv,) = re.findall(r"KV buffer size =\s*([\d.]+) MiB", log)
    assert report.by_device["CPU"]["weights"] == float(weights)
    assert report.by_device["CPU"]["kv"] == float(kv)
    assert (report.n_ctx, report.n_gpu_layers, report.n_layers) == (2048, 0, 31)
    assert report.load_ms > 0
    assert report.isolated is False


@pytest.mark.parametrize("wanted", [True, False])
def test_flash_attention_is_reported_as_it_is(wanted: bool) -> None:
    with Engine(options(flash_attn=wanted)) as engine:
        assert engine.load_report.flash_attn is wanted


def test_the_report_prints_as_a_table() -> None:
    report = LoadReport(
        model="a<b.gguf",
        description="llama 256M Q4_1",
        n_ctx=4096,
        n_batch=512,
        n_gpu_layers=20,
        n_layers=31,
        by_device=read_buffers(lines(GPU_LOG)),
        load_ms=1234.5,
    )
    text = str(report)
    assert "20 of 31" in text
    assert re.search(r"CUDA0 +58\.4 +60\.0 +98\.2 +216\.7", text)
    assert re.search(rf"together .* {report.total_mib:.1f}$", text, re.MULTILINE)
    html = report._repr_html_()
    assert "a&lt;b.gguf" in html
    assert html.count("<tr>") == html.count("</tr>") == 1 + 4
    assert "216.7" in html
