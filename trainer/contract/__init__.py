"""The records every part of Trainyard exchanges. Standard library only."""

from __future__ import annotations

from trainer.contract.codec import ContractError, decode, digest, dumps, encode, loads
from trainer.contract.probes import Fact, Measurement, ProbeReport, Problem
from trainer.contract.result import (
    Check,
    Epoch,
    Flag,
    Gpu,
    Machine,
    Metric,
    Phase,
    Provenance,
    RunResult,
    Status,
    Window,
    WindowKind,
)
from trainer.contract.spec import (
    SCHEMA_VERSION,
    Control,
    Dataset,
    Device,
    Model,
    Precision,
    Profiler,
    RunSpec,
    Scaling,
    Stall,
)

__all__ = [
    "SCHEMA_VERSION",
    "Check",
    "ContractError",
    "Control",
    "Dataset",
    "Device",
    "Epoch",
    "Fact",
    "Flag",
    "Gpu",
    "Machine",
    "Measurement",
    "Metric",
    "Model",
    "Phase",
    "Precision",
    "ProbeReport",
    "Problem",
    "Profiler",
    "Provenance",
    "RunResult",
    "RunSpec",
    "Scaling",
    "Stall",
    "Status",
    "Window",
    "WindowKind",
    "decode",
    "digest",
    "dumps",
    "encode",
    "loads",
]
