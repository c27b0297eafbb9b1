"""Versions, devices and memory: the environment of an answer, and what a bug report needs."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelprobe._version import __version__
from modelprobe.report.blocks import Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit

NOT_INSTALLED = "not installed"
REPORTED_PACKAGES = ("torch", "torchvision", "timm", "thop", "torchinfo")


@dataclass(frozen=True, slots=True)
class Package:
    """A library by its name. `version` is None where it is not installed, `problem` says why it does not load."""

    name: str
    version: str | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """Something torch can compute on. `memory` in bytes, None where nobody says."""

    name: str
    model: str
    memory: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class MachineReport:
    """The computer itself. `memory` in bytes; None for what the system does not tell."""

    os: str
    cpu: str
    cores: int | None
    usable_cores: int | None
    memory: int | None


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """What this torch was built for and is set to."""

    cuda: str | None
    cuda_driver: str | None
    cudnn: str | None
    mps: bool
    threads: int
    interop_threads: int


@dataclass(frozen=True, slots=True)
class MeasuredPeaks:
    """The fastest matrix product and copy of a device: FLOP/s, and bytes/s read and written.

    `launch_s` are the seconds of an operator that has next to nothing to do, one after the other.
    `kind` is cpu, cuda or mps, `name` what the device is, `threads` of the CPU (0 elsewhere).
    """

    kind: str
    name: str
    dtype: str
    threads: int
    setting: str
    flops_per_s: float
    bytes_per_s: float
    launch_s: float


@dataclass(frozen=True, slots=True)
class EnvResult(Result):
    """Everything that a number may depend on, besides the model."""

    modelprobe: str
    python: str
    packages: tuple[Package, ...]
    machine: MachineReport
    torch: TorchBuild | None
    devices: tuple[Device, ...]
    peaks: tuple[MeasuredPeaks, ...] = ()
    env: dict[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """Versions, the machine, what torch was built for, then the devices."""
        versions = (Fact("modelprobe", self.modelprobe), Fact("Python", self.python), *map(_fact, self.packages))
        columns = (
            Column("name", "Device"),
            Column("model", "Model"),
            Column("memory", "Memory", Unit.BYTES),
            Column("detail", "Detail", priority=1),
        )
        rows = tuple(Row((d.name, d.model, d.memory, d.detail)) for d in self.devices)
        blocks = (Facts(versions, "Versions"), _machine(self.machine), *_torch(self.torch))
        table = Table(columns, rows, "Devices", key="devices")
        notes = tuple(_note(package) for package in self.packages if package.problem)
        return Report(
            "Environment of modelprobe",
            "modelprobe.env/1",
            (*blocks, table, *_peaks(self.peaks), *notes),
            self.to_dict(),
            self.env,
            True,
        )


def _peaks(peaks: tuple[MeasuredPeaks, ...]) -> tuple[Table, ...]:
    columns = (
        Column("kind", "Device"),
        Column("dtype", "Type"),
        Column("threads", "Threads", Unit.COUNT),
        Column("flops_per_s", "FLOP/s", Unit.QUANTITY),
        Column("bytes_per_s", "Bytes/s", Unit.QUANTITY),
        Column("launch_s", "Launch", Unit.SECONDS),
        Column("name", "Model", priority=1),
        Column("setting", "Measured with", priority=2),
    )
    rows = tuple(
        Row((p.kind, p.dtype, p.threads or None, p.flops_per_s, p.bytes_per_s, p.launch_s, p.name, p.setting))
        for p in peaks
    )
    return (Table(columns, rows, "Measured peaks: matrix product and copy", key="peaks"),) if peaks else ()


def brief() -> dict[str, Any]:
    """The versions that every JSON carries. Reads what is installed; imports nothing heavy."""
    return {"modelprobe": __version__, "python": platform.python_version(), "torch": _version("torch") or NOT_INSTALLED}


def describe_machine() -> EnvResult:
    """Look at the machine and at the libraries. Never raises for what is missing or broken: that is the answer."""
    packages = tuple(_package(name) for name in REPORTED_PACKAGES)
    loads = packages[0].version is not None and not packages[0].problem
    return EnvResult(
        modelprobe=__version__,
        python=f"{platform.python_version()} ({platform.python_implementation()}, {platform.machine()})",
        packages=packages,
        machine=MachineReport(_os(), cpu_name(), os.cpu_count(), _affinity(), _memory_of_machine()),
        torch=_build() if loads else None,
        devices=tuple(_devices()) if loads else (),
        env=brief(),
    )


# Packages


def library_versions() -> dict[str, str]:
    """The versions that figures depend on."""
    known = {name: _version(name) for name in ("torch", "torchvision", "timm")}
    return {"modelprobe": __version__, **{name: version for name, version in known.items() if version is not None}}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(name: str) -> Package:
    """torch and torchvision are imported, since they can be there and not work; the others are looked up."""
    version = _version(name)
    if version is None or name not in ("torch", "torchvision"):
        return Package(name, version)
    try:
        module = importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - whatever a broken build raises is what the reader wants to see
        return Package(name, version, " ".join(f"{type(error).__name__}: {error}".split())[:300])
    return Package(name, str(getattr(module, "__version__", version)))


def _fact(package: Package) -> Fact:
    return Fact(package.name, package.version or NOT_INSTALLED, detail="does not load" if package.problem else "")


def _note(package: Package) -> Note:
    if "torchvision::nms does not exist" in package.problem:
        text = (
            f"torchvision {package.version} was not built for this torch (operator torchvision::nms does not exist): "
            "install both together, from the same place: pip install --force-reinstall torch torchvision"
        )
        return Note(text, Level.WARNING)
    return Note(f"{package.name} {package.version} does not load: {package.problem}", Level.WARNING)


# The machine


def _os() -> str:
    name = platform.platform()
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {name}"
    except (OSError, KeyError):
        return name


def cpu_name() -> str:
    """The model name of the processor. Linux alone tells more than the architecture."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _affinity() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def usable_cores() -> int:
    """The processors that this process may use."""
    return _affinity() or os.cpu_count() or 1


def _memory_of_machine() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _machine(machine: MachineReport) -> Facts:
    usable = f"{machine.usable_cores} usable by this process" if machine.usable_cores != machine.cores else ""
    return Facts(
        (
            Fact("OS", machine.os),
            Fact("CPU", machine.cpu),
            Fact("Cores", machine.cores, Unit.COUNT, usable),
            Fact("Memory", machine.memory, Unit.BYTES),
        ),
        "Machine",
    )


# What torch says


def _build() -> TorchBuild:
    import torch

    backend: Any = torch.backends.cudnn  # untyped in torch
    cudnn = backend.version() if backend.is_available() else None
    return TorchBuild(
        cuda=torch.version.cuda or torch.version.hip,
        cuda_driver=_driver(),
        cudnn=_dotted(cudnn) if cudnn else None,
        mps=torch.backends.mps.is_available(),
        threads=torch.get_num_threads(),
        interop_threads=torch.get_num_interop_threads(),
    )


def _driver() -> str | None:
    try:
        found = re.search(r"Kernel Module\D*?([\d.]{5,})", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return None
    return found[1] if found else None


def _dotted(cudnn: int) -> str:
    """92600 is 9.26.0 since cuDNN 9; 8907 was 8.9.7 before."""
    step = 10000 if cudnn >= 90000 else 1000
    return f"{cudnn // step}.{cudnn % step // 100}.{cudnn % 100}"


def _torch(build: TorchBuild | None) -> tuple[Facts, ...]:
    if build is None:
        return ()
    return (
        Facts(
            (
                Fact(
                    "CUDA", build.cuda or "not in this build", detail="what torch was built for" if build.cuda else ""
                ),
                Fact("NVIDIA driver", build.cuda_driver or "none"),
                Fact("cuDNN", build.cudnn or "none"),
                Fact("MPS", build.mps, Unit.YESNO),
                Fact("Threads", build.threads, Unit.COUNT, f"{build.interop_threads} between operators"),
            ),
            "torch",
        ),
    )


def _devices() -> Iterator[Device]:
    import torch

    yield Device("cpu", cpu_name(), _memory_of_machine())
    for index in range(torch.cuda.device_count()):
        try:
            found = torch.cuda.get_device_properties(index)
        except RuntimeError as error:  # a driver that is there and does not answer
            yield Device(f"cuda:{index}", "does not answer", None, " ".join(str(error).split())[:120])
            continue
        kind = f"compute capability {found.major}.{found.minor}, {found.multi_processor_count} multiprocessors"
        yield Device(f"cuda:{index}", found.name, found.total_memory, kind)
    if torch.backends.mps.is_available():
        yield Device("mps", "Apple GPU", torch.mps.recommended_max_memory(), "recommended limit")
