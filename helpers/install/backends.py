"""The table of backends: what each one needs, how it is built, and what proves that it works.

This is written once. `python -m helpers lab --backend …`, `doctor`, the installation notebooks
and the tests all read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# The one address from which upstream publishes wheels; LLAMA_NOTEBOOKS_WHEEL_INDEX replaces it.
WHEEL_INDEX = "https://abetlen.github.io/llama-cpp-python/whl"

# Where llama.cpp itself lives, with the pages on what is not built here.
LLAMA_CPP = "https://github.com/ggml-org/llama.cpp"

# CUDA wheel indexes, as (name, CUDA version that the driver must support at least).
CUDA_INDEXES = (
    ("cu118", (11, 8)),
    ("cu121", (12, 1)),
    ("cu122", (12, 2)),
    ("cu123", (12, 3)),
    ("cu124", (12, 4)),
    ("cu125", (12, 5)),
    ("cu130", (13, 0)),
    ("cu132", (13, 2)),
)

# Compute capabilities for which the CUDA wheels carry machine code, by CUDA's major version, and
# whether they carry code of the newest one as PTX too, which a driver compiles for newer cards.
CUDA_CODE: Mapping[int, tuple[tuple[int, ...], bool]] = {
    11: ((60, 61, 70, 75, 80, 86, 89), False),
    12: ((60, 61, 70, 75, 80, 86, 89, 90), True),
    13: ((75, 80, 86, 89, 90), True),
}

# What every source build of the suite leaves out: image models, and llama.cpp's own command line
# library, a quarter to a third of the build. And what it adds: RPC for the practice accelerator.
LEAVE_OUT = ("-DLLAVA_BUILD=off", "-DLLAMA_BUILD_COMMON=off")
COMMON_FLAGS = ("-DGGML_RPC=on", *LEAVE_OUT)


@dataclass(frozen=True)
class Requirement:
    """One thing that a source build needs, how to check for it, and what installs it.

    Attributes:
        name: What it is, in words.
        check: Command line that succeeds when it is there.
        packages: Package by manager, e.g. `apt`, `dnf`, `brew`, `winget`, `conda`.
        systems: Systems on which it is needed: `linux`, `macos`, `windows`.
        page: The maker's page on adding its repository, where the system's own have no such
            package.
        from_maker: The managers for which that is so.
        essential: True if a build without it cannot begin, whatever flags are given.
    """

    name: str
    check: str
    packages: Mapping[str, str] = field(default_factory=dict)
    systems: tuple[str, ...] = ("linux", "macos", "windows")
    essential: bool = False
    page: str = ""
    from_maker: tuple[str, ...] = ()


@dataclass(frozen=True)
class WheelIndex:
    """Prebuilt wheels for one backend, and where they stop.

    Attributes:
        names: Last parts of the index address, e.g. `("cpu",)`; the newest last.
        systems: Pairs of system and machine for which there are wheels.
        limits: What a reader must know before choosing them.
        by_system: The name for a system, where one index is not for all.
    """

    names: tuple[str, ...]
    systems: tuple[tuple[str, str], ...]
    limits: tuple[str, ...]
    by_system: Mapping[str, str] = field(default_factory=dict)

    def newest(self, system: str) -> str:
        """Return the name of the newest index for a system."""
        return self.by_system.get(system, self.names[-1])

    def address(self, name: str) -> str:
        """Return the address of the index called `name`."""
        return f"{WHEEL_INDEX}/{name}"


@dataclass(frozen=True)
class Failure:
    """A typical failure: the words to look for, their cause, and the fix."""

    symptom: str
    cause: str
    fix: str


@dataclass(frozen=True)
class Backend:
    """One way to run the arithmetic of a model.

    Attributes:
        name: Name for `--backend`.
        title: Name for people.
        summary: When to choose it.
        cmake_flags: What CMake is told, as `-D…` strings.
        systems: Systems on which it can be built.
        wheels: Prebuilt wheels, or None.
        requirements: What a source build needs beyond Python.
        environment: Environment variables that matter, with their meaning.
        libraries: Stems of the shared libraries that a build of this backend must contain.
        proof: What shows that this backend does the work.
        failures: Typical failures with their fix.
    """

    name: str
    title: str
    summary: str
    cmake_flags: tuple[str, ...]
    systems: tuple[str, ...]
    wheels: WheelIndex | None
    requirements: tuple[Requirement, ...]
    environment: Mapping[str, str]
    libraries: tuple[str, ...]
    proof: str
    failures: tuple[Failure, ...]


# Without quotes inside quotes: both shells of Windows hand the whole text to --override.
_BUILD_TOOLS = (
    "--id Microsoft.VisualStudio.2022.BuildTools --override "
    '"--add Microsoft.VisualStudio.Workload.VCTools --includeRecommended --passive --wait"'
)
_COMPILER = (
    Requirement(
        "a C++17 compiler",
        "c++ --version",
        {
            "apt": "g++",
            "dnf": "gcc-c++",
            "pacman": "gcc",
            "zypper": "gcc-c++",
            "apk": "g++",
            "conda": "cxx-compiler",
        },
        ("linux",),
    ),
    Requirement(
        "Apple's command line tools",
        "xcode-select -p",
        {"xcode-select": "--install"},
        ("macos",),
    ),
    Requirement(
        "Visual Studio Build Tools with C++",
        "where cl",
        {"winget": _BUILD_TOOLS, "conda": "vs2022_win-64"},
        ("windows",),
    ),
)
_NO_COMPILER = Failure(
    "CMAKE_CXX_COMPILER not set",
    "no C++ compiler was found",
    "install one (Debian and Ubuntu: apt-get install g++) and run the same command again",
)
_CACHED_WHEEL = Failure(
    "the flags change nothing",
    "pip reused the wheel that it built earlier: its cache knows name and version, not CMAKE_ARGS",
    "add --force-reinstall --no-cache-dir --no-binary llama-cpp-python",
)
_CPU_SYSTEMS = (
    ("linux", "x86_64"),
    ("linux", "aarch64"),
    ("linux", "riscv64"),
    ("macos", "arm64"),
    ("windows", "amd64"),
)
_GPU_SYSTEMS = (("linux", "x86_64"), ("windows", "amd64"))
_SLOW_SHARE = "built without AVX2, FMA and F16C: layers that stay on the CPU run slowly"
_GLIBC = "built on Ubuntu 22.04: a Linux with glibc older than 2.35 finds none"
_OFFLOADED = "at load, 'offloaded N/N layers to GPU'"

_ALL = (
    Backend(
        name="cpu",
        title="CPU",
        summary="runs everywhere and is the right choice without a graphics card",
        cmake_flags=(),
        systems=("linux", "macos", "windows"),
        wheels=WheelIndex(
            ("cpu",),
            _CPU_SYSTEMS,
            (
                "built with GGML_NATIVE=off: on x86-64 it needs AVX2, FMA and F16C, and uses "
                "nothing newer, such as AVX-512",
                "on a Mac for Apple silicon alone: an Intel Mac builds from source",
                "no RPC: the practice accelerator needs a source build",
            ),
        ),
        requirements=_COMPILER,
        environment={
            "CMAKE_ARGS": "-DGGML_NATIVE=off builds for other processors, too (x86-64: with AVX2)"
        },
        libraries=("ggml-cpu",),
        proof="devices() lists a device of kind 'cpu'",
        failures=(_NO_COMPILER, _CACHED_WHEEL),
    ),
    Backend(
        name="openblas",
        title="CPU with OpenBLAS",
        summary=(
            "reads long prompts with a tuned matrix library, 0.1 to 1.7 times as fast as without, "
            "by processor and quantization; generation does not gain"
        ),
        cmake_flags=("-DGGML_BLAS=ON", "-DGGML_BLAS_VENDOR=OpenBLAS"),
        systems=("linux", "macos", "windows"),
        wheels=None,
        requirements=(
            *_COMPILER,
            Requirement(
                "OpenBLAS with its headers",
                "pkg-config --exists openblas",
                {
                    "apt": "libopenblas-dev pkg-config",
                    "dnf": "openblas-devel pkgconf-pkg-config",
                    "brew": "openblas pkg-config",
                    "conda": "openblas pkg-config",
                },
            ),
        ),
        environment={"OPENBLAS_NUM_THREADS": "threads of the library, beside n_threads_batch"},
        libraries=("ggml-blas",),
        proof="devices() lists a device of kind 'accel' from the backend 'BLAS'",
        failures=(
            Failure(
                "BLAS not found, please refer to",
                "CMake cannot see OpenBLAS",
                "install libopenblas-dev and pkg-config (Debian, Ubuntu)",
            ),
            _CACHED_WHEEL,
        ),
    ),
    Backend(
        name="cuda",
        title="NVIDIA CUDA",
        summary="for NVIDIA cards",
        cmake_flags=("-DGGML_CUDA=on",),
        systems=("linux", "windows"),
        wheels=WheelIndex(
            tuple(name for name, _ in CUDA_INDEXES),
            _GPU_SYSTEMS,
            (
                "the driver must support at least the CUDA version in the name",
                "machine code for compute capability 6.0 to 8.9 (cu118), 6.0 to 9.0 (cu121 to "
                "cu125) or 7.5 to 9.0 (cu130, cu132)",
                "a newer card, such as an RTX 50 (12.0), gets code that its driver compiles at the "
                "first use; cu118 has none for it",
                "large: cu132 of version 0.3.36 is 784 MB for Linux and 228 MB for Windows",
                _GLIBC,
                "on Windows there is no wheel for CUDA 12.1 to 12.3",
                "CUDA's own libraries (cudart, cublas) are not in the wheel",
                _SLOW_SHARE,
            ),
        ),
        requirements=(
            *_COMPILER,
            Requirement(
                "NVIDIA's driver", "nvidia-smi", {"apt": "nvidia-driver"}, ("linux", "windows")
            ),
            Requirement(
                "the CUDA toolkit (nvcc)",
                "nvcc --version",
                {
                    "apt": "cuda-toolkit",
                    "dnf": "cuda-toolkit",
                    "winget": "Nvidia.CUDA",
                    "conda": "cuda-toolkit",
                },
                ("linux", "windows"),
                essential=True,
                page="https://developer.nvidia.com/cuda-downloads",
                from_maker=("apt", "dnf"),
            ),
        ),
        environment={
            "CUDA_VISIBLE_DEVICES": "numbers of the cards that may be used",
            "CUDACXX": "path of nvcc, if it is not on PATH",
            "CUDAToolkit_ROOT": "folder of the toolkit, if there are several",
        },
        libraries=("ggml-cuda",),
        proof=f"devices() lists a device of kind 'gpu' from 'CUDA', and {_OFFLOADED}",
        failures=(
            Failure(
                "CUDA Toolkit not found",
                "nvcc is missing or not on PATH",
                "install the CUDA toolkit, or set CUDACXX to nvcc's path",
            ),
            Failure(
                "libcudart.so",
                "the wheel was made for another CUDA version, or its libraries are missing",
                "install the CUDA toolkit of that version (or pip's nvidia-cuda-runtime and "
                "nvidia-cublas, and put their lib folders into LD_LIBRARY_PATH), or choose the "
                "wheel index that nvidia-smi's CUDA version allows",
            ),
            Failure(
                "no kernel image is available for execution on the device",
                "the build has no code for this card's compute capability",
                "choose a wheel that has (card_lines with capability=…), or build with "
                "-DCMAKE_CUDA_ARCHITECTURES=120, which is compute capability 12.0",
            ),
            _CACHED_WHEEL,
        ),
    ),
    Backend(
        name="vulkan",
        title="Vulkan",
        summary="for AMD, Intel and NVIDIA cards alike, with only a graphics driver",
        cmake_flags=("-DGGML_VULKAN=on",),
        systems=("linux", "windows"),
        wheels=WheelIndex(
            ("vulkan",),
            _GPU_SYSTEMS,
            ("the Vulkan loader and driver come from the system", "built with GGML_NATIVE=off"),
        ),
        requirements=(
            *_COMPILER,
            Requirement(
                "Vulkan headers 1.3.272 or newer and loader",
                "pkg-config --atleast-version=1.3.272 vulkan",
                {
                    "apt": "libvulkan-dev",
                    "dnf": "vulkan-headers vulkan-loader-devel",
                    "winget": "KhronosGroup.VulkanSDK",
                    "conda": "libvulkan-headers libvulkan-loader",
                },
                ("linux", "windows"),
            ),
            Requirement(
                "the shader compiler glslc",
                "glslc --version",
                {
                    "apt": "glslc",
                    "dnf": "glslc",
                    "winget": "KhronosGroup.VulkanSDK",
                    "conda": "shaderc",
                },
                ("linux", "windows"),
                essential=True,
            ),
            Requirement(
                "SPIR-V headers",
                "pkg-config --exists SPIRV-Headers",
                {"apt": "spirv-headers", "dnf": "spirv-headers-devel", "conda": "spirv-headers"},
                ("linux",),
            ),
        ),
        environment={
            "GGML_VK_VISIBLE_DEVICES": "numbers of the devices to use; set before the first import"
        },
        libraries=("ggml-vulkan",),
        proof=f"devices() lists a device of kind 'gpu' or 'igpu' from 'Vulkan', and {_OFFLOADED}",
        failures=(
            Failure(
                "LayerSettingEXT",
                "the Vulkan headers are older than 1.3.272 (Debian 12 has 1.3.239)",
                "install newer headers (Debian 13, or the Vulkan SDK)",
            ),
            Failure(
                "Could NOT find Vulkan (missing: glslc)",
                "the shader compiler is missing",
                "install glslc",
            ),
        ),
    ),
    Backend(
        name="rocm",
        title="AMD ROCm (HIP)",
        summary="for AMD cards that ROCm supports",
        cmake_flags=("-DGGML_HIP=on",),
        systems=("linux", "windows"),
        wheels=WheelIndex(
            ("hip-radeon", "rocm72"),
            _GPU_SYSTEMS,
            (
                "rocm72 is for Linux with ROCm 7.2, whose libraries are not in the wheel",
                "hip-radeon is for Windows",
                _GLIBC,
                _SLOW_SHARE,
            ),
            {"windows": "hip-radeon"},
        ),
        requirements=(
            *_COMPILER,
            Requirement(
                "ROCm with HIP and rocBLAS",
                "hipconfig --version",
                {"apt": "rocm-hip-sdk", "dnf": "rocm-hip-devel hipblas-devel rocblas-devel"},
                ("linux", "windows"),
                essential=True,
                page="https://rocm.docs.amd.com/projects/install-on-linux/",
                from_maker=("apt",),
            ),
        ),
        environment={
            "HIP_VISIBLE_DEVICES": "numbers of the cards that may be used",
            "HSA_OVERRIDE_GFX_VERSION": "makes ROCm treat a card as a near relative, e.g. 10.3.0",
        },
        libraries=("ggml-hip",),
        proof=f"devices() lists a device of kind 'gpu' from 'ROCm', and {_OFFLOADED}",
        failures=(
            Failure(
                "hip-config.cmake",
                "CMake cannot find HIP",
                "install ROCm's HIP development files and set ROCM_PATH",
            ),
        ),
    ),
    Backend(
        name="sycl",
        title="Intel SYCL (oneAPI)",
        summary="for Intel Arc and Iris Xe",
        cmake_flags=(
            "-DGGML_SYCL=on",
            "-DCMAKE_C_COMPILER=icx",
            "-DCMAKE_CXX_COMPILER=icpx",
        ),
        systems=("linux", "windows"),
        wheels=None,
        requirements=(
            Requirement(
                "Intel's oneAPI compiler, after setvars",
                "icpx --version",
                {
                    "apt": "intel-oneapi-compiler-dpcpp-cpp intel-oneapi-mkl-devel",
                    "dnf": "intel-oneapi-compiler-dpcpp-cpp intel-oneapi-mkl-devel",
                    "winget": "Intel.OneAPI.BaseToolkit",
                    "conda": "dpcpp-cpp-rt mkl-devel-dpcpp",
                },
                ("linux", "windows"),
                essential=True,
                page="https://www.intel.com/content/www/us/en/developer/tools/oneapi/"
                "base-toolkit-download.html",
                from_maker=("apt", "dnf"),
            ),
        ),
        environment={
            "ONEAPI_DEVICE_SELECTOR": "device to use, e.g. level_zero:0",
            "ONEAPI_ROOT": "set by oneAPI's setvars script, which must run first",
        },
        libraries=("ggml-sycl",),
        proof=f"devices() lists a device of kind 'gpu' from 'SYCL', and {_OFFLOADED}",
        failures=(
            Failure(
                "icx: not found",
                "oneAPI's environment is not loaded in this shell",
                "source /opt/intel/oneapi/setvars.sh (Windows: setvars.bat), then build again",
            ),
        ),
    ),
    Backend(
        name="metal",
        title="Apple Metal",
        summary="for Macs; on Apple silicon it is the default",
        cmake_flags=("-DGGML_METAL=on",),
        systems=("macos",),
        wheels=WheelIndex(
            ("metal",), (("macos", "arm64"),), ("Apple silicon only, with an arm64 Python",)
        ),
        requirements=_COMPILER,
        environment={"GGML_METAL_DEVICES": "pretends so many devices, for tests: leave it unset"},
        libraries=("ggml-metal",),
        proof=f"devices() lists a device of kind 'gpu' from 'Metal' ('MTL'), and {_OFFLOADED}",
        failures=(
            Failure(
                "incompatible architecture (have 'x86_64', need 'arm64')",
                "the library was built for Intel, by an Intel shell, CMake or Python, and this "
                "Python is arm64",
                "take the prebuilt wheel, or build with --force-reinstall --no-cache-dir and in "
                "CMAKE_ARGS -DCMAKE_OSX_ARCHITECTURES=arm64 -DCMAKE_APPLE_SILICON_PROCESSOR=arm64",
            ),
        ),
    ),
    Backend(
        name="rpc",
        title="RPC (other processes and machines)",
        summary="the practice accelerator: real offload on a machine without a graphics card",
        cmake_flags=("-DGGML_RPC=on",),
        systems=("linux", "macos", "windows"),
        wheels=None,
        requirements=_COMPILER,
        environment={},
        libraries=("ggml-rpc",),
        proof="practice_accelerator() gives a device that takes layers",
        failures=(_NO_COMPILER, _CACHED_WHEEL),
    ),
)

BACKENDS: Mapping[str, Backend] = {backend.name: backend for backend in _ALL}
"""What llama.cpp can be built for, by name: flags, wheels, requirements, proof, known failures."""


@dataclass(frozen=True)
class OtherBackend:
    """A backend of llama.cpp that the suite does not build.

    Attributes:
        title: Name for people.
        serves: The hardware that it is for.
        cmake_flag: What llama.cpp's CMake is told.
        page: Where llama.cpp documents it, in its repository.
    """

    title: str
    serves: str
    cmake_flag: str
    page: str

    @property
    def address(self) -> str:
        """The page's address."""
        return f"{LLAMA_CPP}/blob/master/{self.page}"


# llama-cpp-python's build file installs MUSA's library and none of the others': they are for
# llama.cpp's own programs.
OTHER_BACKENDS = (
    OtherBackend(
        "OpenCL",
        "Adreno, the graphics of Qualcomm's Snapdragon",
        "-DGGML_OPENCL=on",
        "docs/backend/OPENCL.md",
    ),
    OtherBackend(
        "Hexagon",
        "the NPU of Qualcomm's Snapdragon",
        "-DGGML_HEXAGON=on",
        "docs/backend/snapdragon/README.md",
    ),
    OtherBackend(
        "OpenVINO",
        "Intel's processors, graphics and NPUs",
        "-DGGML_OPENVINO=on",
        "docs/backend/OPENVINO.md",
    ),
    OtherBackend(
        "WebGPU",
        "any card, and browsers",
        "-DGGML_WEBGPU=on",
        "docs/build.md#webgpu",
    ),
    OtherBackend(
        "MUSA",
        "Moore Threads cards",
        "-DGGML_MUSA=on",
        "docs/build.md#musa",
    ),
    OtherBackend(
        "CANN",
        "Huawei's Ascend NPUs",
        "-DGGML_CANN=on",
        "docs/build.md#cann",
    ),
)
