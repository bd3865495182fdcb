"""What the doctor concludes from a report; the reports were recorded on the real builds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from recording import RUN, TABLE

from helpers.doctor import FAIL, NOTE, OK, BackendReport, Check, explain
from helpers.doctor.proof import count_splits
from helpers.install.detect import Machine

PLAIN = Machine("linux", "x86_64")
NVIDIA = Machine("linux", "x86_64", nvidia="RTX 4070", cuda=(12, 4))
ROWS = {
    row["backend"]: row
    for row in json.loads(TABLE.read_text(encoding="utf-8"))
    if row["on"] == "linux" and "report" in row
}


def recorded(backend: str) -> BackendReport:
    return BackendReport.from_dict(ROWS[backend]["report"])


def find(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def names(backend: str) -> set[str]:
    return {check.name for check in explain(recorded(backend), PLAIN)}


def test_the_builds_that_must_be_told_apart_were_really_run() -> None:
    for backend in ("cpu", "openblas", "vulkan", "rpc"):
        assert ROWS[backend]["outcome"] == RUN
        assert ROWS[backend]["texts_equal"] is True


def test_four_builds_give_four_verdicts() -> None:
    verdicts = {name: find(explain(recorded(name), PLAIN), "Build").detail for name in ROWS}
    assert len(set(verdicts.values())) == len(ROWS)
    assert verdicts["cpu"] == "cpu (registered: CPU)"
    assert verdicts["rpc"] == "cpu, rpc (registered: RPC, CPU)"
    assert verdicts["openblas"] == "cpu, openblas (registered: BLAS, CPU)"
    assert verdicts["vulkan"] == "cpu, vulkan (registered: Vulkan, CPU)"


def test_a_processor_build_claims_nothing_else() -> None:
    assert names("cpu") == {"Build", "Device", "Speed", "GPU"}


def test_a_run_that_was_not_timed_has_no_speed() -> None:
    report = recorded("cpu")
    runs = tuple(replace(run, prompt_per_second=None) for run in report.runs)
    checks = explain(replace(report, runs=runs), PLAIN)
    assert "Speed" not in {check.name for check in checks}
    assert "tokens/s" not in str(runs[0]) and "tokens/s" in str(report.runs[0])


def test_openblas_is_proven_by_the_pieces_it_is_given() -> None:
    check = find(explain(recorded("openblas"), PLAIN), "Accelerator")
    assert check.status == OK and "BLAS reads prompts" in check.detail
    idle = recorded("openblas")
    idle = replace(idle, runs=tuple(replace(run, splits={"CPU": 1}) for run in idle.runs))
    check = find(explain(idle, PLAIN), "Accelerator")
    assert check.status == NOTE and "nothing to do" in check.detail


def test_vulkan_is_proven_by_llama_cpps_own_line() -> None:
    check = find(explain(recorded("vulkan"), PLAIN), "Offload")
    assert check.status == OK
    assert check.detail == "offloaded 31/31 layers to Vulkan0"


def test_rpc_is_proven_by_the_practice_accelerator() -> None:
    check = find(explain(recorded("rpc"), PLAIN), "Practice accelerator")
    assert check.status == OK and "31/31" in check.detail


@pytest.mark.parametrize("said", [None, (0, 31), (15, 31)])
def test_a_gpu_that_takes_no_layers_is_a_failure(said: tuple[int, int] | None) -> None:
    report = recorded("vulkan")
    report = replace(report, runs=tuple(replace(run, offloaded=said) for run in report.runs))
    check = find(explain(report, PLAIN), "Offload")
    assert check.status == FAIL and check.fix
    assert "Vulkan0 is listed" in check.detail


def test_another_text_on_the_device_is_remarked() -> None:
    report = recorded("vulkan")
    runs = (*report.runs[:-1], replace(report.runs[-1], text="nonsense"))
    checks = [check for check in explain(replace(report, runs=runs), PLAIN) if check.status == NOTE]
    assert any("the text differs" in check.detail for check in checks)


def test_a_graphics_card_that_this_build_cannot_use() -> None:
    check = find(explain(recorded("cpu"), NVIDIA), "GPU")
    assert "RTX 4070" in check.detail and "a build for the processor" in check.detail
    assert check.fix == "python -m helpers lab --backend cuda"


def test_a_gpu_library_without_a_device() -> None:
    report = recorded("vulkan")
    bare = replace(
        report,
        devices=tuple(device for device in report.devices if device.kind == "cpu"),
        runs=report.runs[:1],
    )
    check = find(explain(bare, PLAIN), "GPU")
    assert "this build is for Vulkan, but it finds no device" in check.detail


@pytest.mark.parametrize(
    ("flags", "backend"),
    [
        ("-DGGML_CUDA=on", "NVIDIA CUDA"),
        ("-DLLAMA_CUBLAS=on", "NVIDIA CUDA"),
        ("-DGGML_BLAS=ON -DGGML_BLAS_VENDOR=OpenBLAS", "OpenBLAS"),
        ("-DGGML_VULKAN=1", "Vulkan"),
    ],
)
def test_flags_that_did_nothing_are_explained_by_pips_cache(flags: str, backend: str) -> None:
    cached = Path("cache") / "llama_cpp_python-0.3.36-py3-none-any.whl"
    check = find(explain(recorded("cpu"), PLAIN, flags, cached), "Build flags")
    assert backend in check.detail and "your flags did nothing" in check.detail
    assert cached.name in check.detail
    assert "--force-reinstall --no-cache-dir" in check.fix


@pytest.mark.parametrize("flags", ["", "-DGGML_CUDA=off", "-DGGML_NATIVE=on", "-DA='b"])
def test_flags_that_ask_for_no_backend_say_nothing(flags: str) -> None:
    assert "Build flags" not in {c.name for c in explain(recorded("cpu"), PLAIN, flags)}


def test_flags_that_were_obeyed_say_nothing() -> None:
    checks = explain(recorded("vulkan"), PLAIN, "-DGGML_VULKAN=on")
    assert "Build flags" not in {check.name for check in checks}


def test_a_flag_for_another_system_is_to_be_taken_out() -> None:
    check = find(explain(recorded("cpu"), PLAIN, "-DGGML_METAL=on"), "Build flags")
    assert "Apple Metal does not exist on linux" in check.fix


def test_the_pieces_of_the_largest_graph_are_counted() -> None:
    lines = [
        "## SPLIT #0: CPU # 0 inputs",
        "some other line",
        "## SPLIT #0: CPU # 0 inputs",
        "## SPLIT #1: BLAS # 2 inputs: [x (  11K)]",
        "## SPLIT #2: CPU # 0 inputs",
        "## SPLIT #0: CPU # 0 inputs",
    ]
    assert count_splits(lines) == {"BLAS": 1, "CPU": 2}
    assert count_splits([]) == {}
