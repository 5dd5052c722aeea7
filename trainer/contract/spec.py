"""``RunSpec``: what one training run does, complete, checked at construction."""

from __future__ import annotations

import math
import re
from dataclasses import Field, dataclass, field
from enum import StrEnum
from typing import Any

from trainer.contract.codec import check_types, digest, fail

SCHEMA_VERSION = 1


def doc(text: str, **options: Any) -> Any:
    """Declare a dataclass field whose one-line meaning travels into the JSON Schema."""
    made: Field[Any] = field(metadata={"doc": text}, **options)
    return made


class Model(StrEnum):
    """Networks the trainer knows; ``resnet18_small`` trains well on two CPU cores."""

    RESNET18 = "resnet18"
    RESNET18_SMALL = "resnet18_small"


class Dataset(StrEnum):
    """Data sets the trainer can read."""

    DIGITS = "digits"
    CIFAR10 = "cifar10"
    SYNTHETIC = "synthetic"


class Precision(StrEnum):
    """Arithmetic of the forward and backward pass; fp16 adds loss scaling."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Scaling(StrEnum):
    """What stays fixed while ranks grow: global batch (strong), per-rank batch (weak)."""

    STRONG = "strong"
    WEAK = "weak"
    NONE = "none"


class Device(StrEnum):
    """Where tensors live; ``auto`` takes a GPU per rank when the node has enough of them."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Control(StrEnum):
    """Measurements that need no profiler: each repeats the timed windows with one part removed."""

    SYNTHETIC_INPUT = "synthetic_input"
    NO_SYNC = "no_sync"


class Profiler(StrEnum):
    """What watches the last steps of every rank; ``nsys`` and ``ncu`` run around the process."""

    NONE = "none"
    TORCH = "torch"
    NSYS = "nsys"
    NCU = "ncu"


class Stall(StrEnum):
    """A known slowness planted in a run, to prove that its analysis finds it."""

    NONE = "none"
    INPUT = "input"
    """Every batch is read late."""
    HOST = "host"
    """The host idles before each forward pass."""
    RANK = "rank"
    """The forward pass of the last rank takes longer."""


@dataclass(kw_only=True, slots=True, frozen=True)
class RunSpec:
    """What to run. Equal specs describe equal work; where it runs is the Site's affair."""

    schema_version: int = doc("Version of this record", default=SCHEMA_VERSION)
    name: str = doc("Human label of the configuration, for example strong-n2")
    model: Model = doc("Network", default=Model.RESNET18_SMALL)
    dataset: Dataset = doc("Data set", default=Dataset.DIGITS)
    dataset_digest: str = doc(
        "SHA-256 (64 hex digits) of the staged archive; empty only for synthetic", default=""
    )
    scaling: Scaling = doc("Which study mode this run belongs to", default=Scaling.NONE)
    ranks: int = doc("Training processes in all", default=1)
    nodes: int = doc("Machines the ranks are spread over evenly", default=1)
    distributed: bool = doc(
        "Use DistributedDataParallel; false only with one rank: the base without it", default=True
    )
    per_rank_batch: int = doc("Samples per rank and micro step", default=64)
    accumulation: int = doc("Micro steps per optimizer step", default=1)
    global_batch: int = doc("per_rank_batch x ranks x accumulation, checked", default=64)
    precision: Precision = doc("Arithmetic", default=Precision.FP32)
    channels_last: bool = doc("NHWC memory format of model and input", default=False)
    bucket_cap_mb: int = doc("DDP gradient bucket size in MiB", default=25)
    loader_workers: int = doc("DataLoader worker processes per rank", default=0)
    prefetch_factor: int = doc("Batches each loader worker keeps ready", default=2)
    pin_memory: bool = doc("Page-locked host batches (GPU only)", default=False)
    threads_per_rank: int = doc("OMP_NUM_THREADS and torch threads of every rank", default=1)
    device: Device = doc("Where tensors live", default=Device.AUTO)
    seed: int = doc("Seed of weights, shuffling and augmentation", default=0)
    epochs: int = doc("Passes over the training set; 0 when steps is given", default=0)
    steps: int = doc("Optimizer steps; 0 when epochs is given", default=0)
    learning_rate: float = doc("Peak learning rate", default=0.05)
    momentum: float = doc("SGD momentum", default=0.9)
    weight_decay: float = doc("L2 penalty", default=5e-4)
    augment: bool = doc("Random shift (and flip, for cifar10) of training images", default=False)
    evaluate: bool = doc("Measure accuracy on the test split at the end", default=True)
    warmup_steps: int = doc("Steps before the first timed window; not measured", default=10)
    window_steps: int = doc("Optimizer steps per timed window", default=20)
    control_windows: int = doc("Timed windows per control", default=3)
    controls: tuple[Control, ...] = doc("Profiler-free controls to measure", default=())
    loss_reference: float | None = doc(
        "Loss of the single-process fp32 reference after the first window", default=None
    )
    loss_tolerance: float = doc("Largest relative distance from loss_reference", default=0.05)
    checkpoint_every: int = doc("Steps between checkpoints; 0 for none", default=0)
    collective_timeout_s: int = doc("Seconds before a lost rank fails the others", default=120)
    deterministic: bool = doc("Ask torch for deterministic kernels", default=True)
    profiler: Profiler = doc("What captures the last steps of every rank", default=Profiler.NONE)
    profile_steps: int = doc("Optimizer steps captured, at the end of training", default=12)
    stall: Stall = doc("Slowness planted on purpose", default=Stall.NONE)
    stall_ms: float = doc("Milliseconds of the planted stall per step", default=0.0)

    def __post_init__(self) -> None:
        """Refuse what cannot run, with the fix in the message."""
        check_types(self)
        _check_identity(self)
        _check_bounds(self)
        _check_batches(self)
        _check_length(self)
        _check_combinations(self)

    @property
    def spec_id(self) -> str:
        """Hash of the whole spec: equal ids mean equal work, bit for bit."""
        return digest(self)

    @property
    def config_id(self) -> str:
        """Hash of the spec without its seed: repeats of one configuration share it."""
        return digest(self, without=("seed",))

    @property
    def ranks_per_node(self) -> int:
        """Ranks on each node."""
        return self.ranks // self.nodes


_AT_LEAST = {
    "ranks": 1,
    "nodes": 1,
    "per_rank_batch": 1,
    "accumulation": 1,
    "global_batch": 1,
    "bucket_cap_mb": 1,
    "loader_workers": 0,
    "prefetch_factor": 1,
    "threads_per_rank": 1,
    "seed": 0,
    "epochs": 0,
    "steps": 0,
    "warmup_steps": 0,
    "window_steps": 1,
    "control_windows": 1,
    "checkpoint_every": 0,
    "collective_timeout_s": 1,
    "learning_rate": 0,
    "momentum": 0,
    "weight_decay": 0,
    "profile_steps": 1,
    "stall_ms": 0,
    "loss_tolerance": 0,
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def _check_identity(spec: RunSpec) -> None:
    if not _NAME.fullmatch(spec.name):
        fail(
            "name",
            spec.name,
            "must be 1 to 100 of A-Z a-z 0-9 . _ - and start with a letter or digit",
        )
    if spec.dataset is Dataset.SYNTHETIC:
        return
    if not re.fullmatch("[0-9a-f]{64}", spec.dataset_digest):
        fail(
            "dataset_digest",
            spec.dataset_digest,
            f"{spec.dataset} needs the SHA-256 of its archive",
            "Stage the data set first: the fetch_dataset DAG returns the digest",
        )


def _check_bounds(spec: RunSpec) -> None:
    for name, least in _AT_LEAST.items():
        value = getattr(spec, name)
        if not least <= value < math.inf:  # also refuses NaN
            fail(name, value, f"must be {least} or more, and finite")
    if spec.loss_reference is not None and not math.isfinite(spec.loss_reference):
        fail("loss_reference", spec.loss_reference, "must be a finite loss, or absent")


def _check_batches(spec: RunSpec) -> None:
    if spec.ranks % spec.nodes:
        fail("ranks", spec.ranks, f"must be divisible by nodes = {spec.nodes}")
    product = spec.per_rank_batch * spec.ranks * spec.accumulation
    if spec.global_batch != product:
        fail(
            "global_batch",
            spec.global_batch,
            "must be per_rank_batch x ranks x accumulation = "
            f"{spec.per_rank_batch} x {spec.ranks} x {spec.accumulation} = {product}",
            "Choose a global batch that the number of ranks divides",
        )


def _check_length(spec: RunSpec) -> None:
    if bool(spec.epochs) == bool(spec.steps):
        fail("epochs, steps", (spec.epochs, spec.steps), "give exactly one of them, the other 0")


def _check_combinations(spec: RunSpec) -> None:
    if not spec.distributed and spec.ranks > 1:
        fail("distributed", False, f"{spec.ranks} ranks need it", "Set distributed = true")
    if len(set(spec.controls)) < len(spec.controls):
        fail("controls", [str(c) for c in spec.controls], "names one twice", "Keep one of them")
    if Control.NO_SYNC in spec.controls and not spec.distributed:
        fail("controls", [str(c) for c in spec.controls], "no_sync needs distributed = true")
    _check_profile(spec)
    if spec.precision is Precision.FP16 and spec.device is Device.CPU:
        fail("precision", "fp16", "needs a GPU", "On a CPU choose fp32 or bf16")


def _check_profile(spec: RunSpec) -> None:
    if spec.profiler is Profiler.NCU and spec.ranks > 1:
        fail(
            "profiler",
            "ncu",
            f"replays each kernel, and with ranks = {spec.ranks} a replayed collective would wait "
            "for ever",
            "Choose ranks = 1, or nsys",
        )
    if spec.profiler is Profiler.NCU and spec.device is Device.CPU:
        fail("profiler", "ncu", "counts on GPUs", "On a CPU choose nsys or torch")
    if bool(spec.stall_ms) != (spec.stall is not Stall.NONE):
        fail(
            "stall, stall_ms",
            (spec.stall.value, spec.stall_ms),
            "belong together: a kind and its milliseconds, or neither",
        )
    if spec.stall is Stall.RANK and spec.ranks == 1:
        fail("stall", "rank", "slows one rank against others", "Choose ranks = 2 or more")
