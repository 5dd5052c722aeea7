"""Facts of PyTorch, BLAS and MPI, and which operators really run on the device."""

from __future__ import annotations

import contextlib
import io
import platform
import re
from collections.abc import Callable

import torch
from torch.nn import functional

from trainer.probes.facts_programs import ask
from trainer.probes.found import Found, Place
from trainer.provenance import version_of


def software(_place: Place) -> Found:
    """Return what was built how."""
    found = Found()
    found.fact("python.version", platform.python_version(), source="platform")
    for package in ("torch", "torchvision", "numpy"):
        found.fact(f"{package}.version", version_of(package), source="package metadata")
    _torch(found)
    _blas(found)
    mpi = ask(["mpirun", "--version"])
    found.fact("mpi.version", (mpi or "absent").splitlines()[0], source="mpirun --version")
    toolkit = re.search(r"release ([\d.]+)", ask(["nvcc", "--version"]) or "")
    found.fact("cuda.toolkit", toolkit[1] if toolkit else "absent", source="nvcc --version")
    return found


def _torch(found: Found) -> None:
    source = "torch"
    found.fact("cuda.runtime", torch.version.cuda or "none", source="torch.version.cuda")
    found.fact("torch.cpu_capability", torch.backends.cpu.get_cpu_capability(), source=source)
    found.fact("torch.threads", torch.get_num_threads(), source=source, stable=False)
    for name, there in (
        ("mkldnn", torch.backends.mkldnn.is_available()),  # type: ignore[no-untyped-call]
        ("mkl", torch.backends.mkl.is_available()),  # type: ignore[no-untyped-call]
    ):
        found.fact(f"torch.{name}", "yes" if there else "no", source=source)
    built = torch.__config__.show()
    for name, pattern in (("torch.onednn", r"MKL-DNN v(\S+)"), ("torch.openmp", r"OpenMP (\S+)")):
        match = re.search(pattern, built)
        found.fact(name, match[1] if match else None, source="torch.__config__")
    group = torch.distributed
    backends = [
        name
        for name, there in (
            ("gloo", group.is_gloo_available()),
            ("nccl", group.is_nccl_available()),
            ("mpi", group.is_mpi_available()),
        )
        if there
    ]
    found.fact("torch.backends", " ".join(backends), source="torch.distributed")
    if torch.cuda.is_available():
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        found.fact("cuda.cudnn", cudnn, source="torch")
        nccl = ".".join(str(part) for part in torch.cuda.nccl.version())  # type: ignore[no-untyped-call]
        found.fact("cuda.nccl", nccl, source="torch.cuda.nccl")
        arches = " ".join(torch.cuda.get_arch_list())
        found.fact("cuda.architectures", arches, source="torch.cuda.get_arch_list")


def _blas(found: Found) -> None:
    import numpy as np

    with contextlib.redirect_stdout(io.StringIO()):
        told = np.show_config(mode="dicts")
    blas = told.get("Build Dependencies", {}).get("blas", {}) if isinstance(told, dict) else {}
    text = f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()
    found.fact("numpy.blas", text, source="numpy.show_config")


def operators(place: Place) -> Found:
    """Run one small case of each kind of work on the device and compare it with float64."""
    found = Found()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name, (operator, tolerance) in _cases(quick=place.quick).items():
        try:
            error = _error(operator, device)
        except Exception as problem:  # noqa: BLE001 - what it raises is what is found
            found.fact(f"operator.{name}", "fails", source=f"run on {device}")
            first = str(problem).strip().splitlines()[:1] or [type(problem).__name__]
            fix = "" if name != "compile" else "install a C++ compiler, or train without compile"
            found.problem("operators", f"{name} on {device}: {first[0]}", fix)
            continue
        good = error <= tolerance
        found.fact(f"operator.{name}", "runs" if good else "wrong", source=f"run on {device}")
        if not good:
            what = f"{name} on {device}: relative error {error:.2g}, allowed {tolerance:g}"
            found.problem("operators", what, "do not measure here: the numbers are of wrong work")
    return found


Operator = Callable[[torch.device], tuple[torch.Tensor, torch.Tensor]]
"""Returns (what the device computes, the same in float64 on the CPU)."""


def _error(operator: Operator, device: torch.device) -> float:
    got, wanted = operator(device)
    difference = (got.double().cpu() - wanted).norm() / wanted.norm()
    return float(difference)


def _cases(*, quick: bool) -> dict[str, tuple[Operator, float]]:
    # Tolerances: a few rounding steps of the type's mantissa (2^-24, 2^-11, 2^-8).
    cases: dict[str, tuple[Operator, float]] = {
        "matmul_fp32": (_matmul(torch.float32), 1e-3),  # TF32 counts as fp32 on a GPU
        "matmul_bf16": (_matmul(torch.bfloat16), 2e-2),
        "matmul_fp16": (_matmul(torch.float16), 4e-3),
        "convolution": (_convolution, 1e-3),
        "attention": (_attention, 1e-3),
    }
    if not quick:  # compiling takes longer than all others together
        cases["compile"] = (_compiled, 1e-4)
    return cases


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _matmul(kind: torch.dtype) -> Operator:
    def run(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        left, right = _random(128, 96).to(kind), _random(96, 64).to(kind)
        return left.to(device) @ right.to(device), left.double() @ right.double()

    return run


def _convolution(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    images, weights = _random(2, 3, 16, 16), _random(8, 3, 3, 3)
    got = functional.conv2d(images.to(device), weights.to(device), padding=1)
    return got, functional.conv2d(images.double(), weights.double(), padding=1)


def _attention(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    values = _random(2, 4, 32, 16)
    there = values.to(device)
    got = functional.scaled_dot_product_attention(there, there, there)
    exact = values.double()
    return got, functional.scaled_dot_product_attention(exact, exact, exact)


def _compiled(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    def work(values: torch.Tensor) -> torch.Tensor:
        return torch.relu(values) * 2 + 1

    values = _random(64, 64)
    return torch.compile(work)(values.to(device)), work(values.double())
