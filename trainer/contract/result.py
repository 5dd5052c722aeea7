"""``RunResult``: what one training run did, with everything a reviewer needs to trust it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from trainer.contract.codec import fail
from trainer.contract.spec import SCHEMA_VERSION, doc


class Status(StrEnum):
    """How a run ended. Only the orchestrator writes ``lost`` and ``cancelled``."""

    COMPLETED = "completed"
    FAILED = "failed"
    LOST = "lost"
    CANCELLED = "cancelled"


class Phase(StrEnum):
    """Where in its life a run was."""

    LAUNCH = "launch"
    SETUP = "setup"
    DATA = "data"
    WARMUP = "warmup"
    TRAIN = "train"
    CONTROL = "control"
    EVALUATE = "evaluate"
    FINISHED = "finished"


class WindowKind(StrEnum):
    """Which steps a window timed: the real ones or those of a control."""

    TRAIN = "train"
    SYNTHETIC_INPUT = "synthetic_input"
    NO_SYNC = "no_sync"


class Flag(StrEnum):
    """Why a number must not enter fits and comparisons; the number itself is kept and shown."""

    OVERSUBSCRIBED = "oversubscribed"
    CLOCK_DRIFT = "clock_drift"
    THROTTLED = "throttled"
    FOREIGN_LOAD = "foreign_load"
    UNSTABLE = "unstable"
    PREEMPTED = "preempted"
    RESUMED = "resumed"
    SHORT = "short"
    PROFILED = "profiled"


@dataclass(kw_only=True, slots=True, frozen=True)
class Check:
    """One sanity check: did the run do what it claims."""

    name: str = doc("Stable name, for example loss_finite")
    passed: bool = doc("Verdict")
    detail: str = doc("Measured value against the requirement", default="")


@dataclass(kw_only=True, slots=True, frozen=True)
class Metric:
    """One number of the whole run."""

    name: str = doc("Stable name, for example images_per_second")
    value: float = doc("Value in unit")
    unit: str = doc("Unit, for example image/s, s, 1, B")


@dataclass(kw_only=True, slots=True, frozen=True)
class Window:
    """One timed window of optimizer steps; the window's time is the slowest rank's."""

    kind: WindowKind = doc("Which steps were timed")
    index: int = doc("Place among the windows of its kind, from 0")
    steps: int = doc("Optimizer steps inside")
    images: int = doc("Samples trained inside, over all ranks")
    seconds_by_rank: tuple[float, ...] = doc("Seconds each rank took, in rank order")
    foreign_load: float = doc(
        "Cores kept busy by processes that are not this run, mean over the window", default=0.0
    )

    def __post_init__(self) -> None:
        """Refuse a window that no rank timed."""
        if not self.seconds_by_rank:
            fail("seconds_by_rank", self.seconds_by_rank, "must hold the seconds of every rank")

    @property
    def seconds(self) -> float:
        """Seconds of the slowest rank."""
        return max(self.seconds_by_rank)


@dataclass(kw_only=True, slots=True, frozen=True)
class Epoch:
    """One pass over the training set, reduced over ranks."""

    index: int = doc("Epoch, from 0")
    steps: int = doc("Optimizer steps in it")
    images: int = doc("Samples trained in it")
    seconds: float = doc("Wall time of the slowest rank")
    train_loss: float = doc("Mean loss per sample over all ranks")
    train_accuracy: float = doc("Share of right answers while training, 0 to 1")
    test_accuracy: float | None = doc("Share of right answers on the test split", default=None)


@dataclass(kw_only=True, slots=True, frozen=True)
class Gpu:
    """One GPU seen by the run."""

    name: str = doc("Model name")
    memory_bytes: int = doc("Device memory")
    driver: str = doc("Driver version", default="")


@dataclass(kw_only=True, slots=True, frozen=True)
class Machine:
    """One node as the run found it."""

    hostname: str = doc("Host name")
    os: str = doc("Operating system")
    kernel: str = doc("Kernel release")
    cpu_model: str = doc("CPU model name")
    cores_total: int = doc("Logical cores of the host")
    cores_usable: int = doc("Cores this process may use (affinity and cgroup)")
    memory_bytes: int = doc("Memory this process may use")
    gpus: tuple[Gpu, ...] = doc("GPUs visible", default=())


@dataclass(kw_only=True, slots=True, frozen=True)
class Provenance:
    """What code ran, with what, when, started by what."""

    git_commit: str = doc("Commit of the repository, empty when unknown")
    git_dirty: bool = doc("Uncommitted changes were present")
    python: str = doc("Python version")
    torch: str = doc("torch version")
    torchvision: str = doc("torchvision version")
    numpy: str = doc("numpy version")
    cuda: str = doc("CUDA runtime of the torch build, empty without", default="")
    nccl: str = doc("NCCL version, empty without", default="")
    backend: str = doc("Collective backend: nccl, gloo or none")
    device: str = doc("cpu or cuda")
    argv: tuple[str, ...] = doc("Command line of rank 0")
    job_id: str = doc("Scheduler job id, empty for plain processes", default="")
    image: str = doc("Digest of the container image, empty without", default="")
    started_at: str = doc("UTC, ISO 8601")
    ended_at: str = doc("UTC, ISO 8601")


@dataclass(kw_only=True, slots=True, frozen=True)
class RunResult:
    """What happened: sanity first, then performance; raw windows travel with the summary."""

    schema_version: int = doc("Version of this record", default=SCHEMA_VERSION)
    run_id: str = doc("Name of the run folder")
    spec_id: str = doc("Hash of the spec that ran")
    status: Status = doc("How it ended")
    phase: Phase = doc("How far it came")
    reason: str = doc("Why it failed, empty when it did not", default="")
    sanity: tuple[Check, ...] = doc(
        "Checks; a run with a failed one has no valid number", default=()
    )
    flags: tuple[Flag, ...] = doc("Why the number is not comparable; empty when it is", default=())
    flag_details: tuple[str, ...] = doc("Measured value behind each flag, in order", default=())
    metrics: tuple[Metric, ...] = doc("Numbers of the whole run", default=())
    windows: tuple[Window, ...] = doc("Every timed window", default=())
    epochs: tuple[Epoch, ...] = doc("Every epoch", default=())
    parameter_hash: str = doc("SHA-256 of the final parameters, equal on all ranks", default="")
    machines: tuple[Machine, ...] = doc("Nodes, in node order", default=())
    provenance: Provenance | None = doc("Code, versions, times", default=None)

    @property
    def sane(self) -> bool:
        """The run completed and every check passed."""
        return self.status is Status.COMPLETED and all(check.passed for check in self.sanity)

    @property
    def comparable(self) -> bool:
        """Sane and unflagged: may enter fits and comparisons."""
        return self.sane and not self.flags

    def metric(self, name: str) -> float | None:
        """Value of the metric called *name*, or None when the run did not measure it."""
        return next((metric.value for metric in self.metrics if metric.name == name), None)
