"""Study parameters and the presets a trigger form offers; pure records and functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from trainer.contract import (
    Control,
    Dataset,
    Device,
    Model,
    Precision,
    Profiler,
    Scaling,
    Stall,
)
from trainyard.errors import ConfigurationError


class Preset(StrEnum):
    """How much a study measures; each has one function below."""

    DEMO = "demo"
    STANDARD = "standard"
    THOROUGH = "thorough"


@dataclass(kw_only=True, slots=True, frozen=True)
class StudyParameters:
    """What a study varies and what it holds fixed."""

    preset: Preset
    """The preset these parameters started from."""
    dataset: Dataset = Dataset.DIGITS
    """Data set every run trains on."""
    dataset_digest: str = ""
    """SHA-256 of the staged archive; empty only for synthetic."""
    model: Model = Model.RESNET18_SMALL
    """Network every run trains."""
    ranks: tuple[int, ...] = (1, 2)
    """Numbers of training processes."""
    modes: tuple[Scaling, ...] = (Scaling.STRONG, Scaling.WEAK)
    """Strong: global batch fixed. Weak: per-rank batch fixed."""
    global_batches: tuple[int, ...] = (64,)
    """Samples per optimizer step over all ranks, one strong curve each."""
    per_rank_batch: int = 64
    """Samples per rank and step of the weak curve and of single runs."""
    precision: Precision = Precision.FP32
    """Arithmetic."""
    device: Device = Device.AUTO
    """Where tensors live."""
    channels_last: bool = False
    """NHWC memory format."""
    epochs: int = 0
    """Passes over the training set; 0 when steps is given."""
    steps: int = 0
    """Optimizer steps; 0 when epochs is given."""
    repeats: int = 5
    """Independent runs of every configuration, each with its own seed."""
    controls: tuple[Control, ...] = (Control.SYNTHETIC_INPUT, Control.NO_SYNC)
    """Profiler-free controls that split the time per step."""
    base_without_ddp: bool = True
    """Also run one process without DistributedDataParallel: the honest base."""
    threads_per_rank: int = 1
    """OMP_NUM_THREADS of every rank."""
    loader_workers: int = 0
    """DataLoader worker processes per rank."""
    learning_rate: float = 0.05
    """Peak learning rate."""
    warmup_steps: int = 10
    """Steps before the first timed window."""
    window_steps: int = 20
    """Steps per timed window."""
    control_windows: int = 3
    """Timed windows per control."""
    base_seed: int = 0
    """Seed of the first repeat; repeat r runs with base_seed + r."""
    profiler: Profiler = Profiler.NONE
    """What captures the last steps: of every pair's second run, or of one run after a study."""
    profile_steps: int = 12
    """Steps captured."""
    stall: Stall = Stall.NONE
    """Slowness planted in profiled pairs, to see that the verdict names it."""
    stall_ms: float = 0.0
    """Milliseconds of it per step."""

    def __post_init__(self) -> None:
        """Refuse what no plan can be made of."""
        for name in ("ranks", "modes", "global_batches"):
            values = getattr(self, name)
            if not values:
                raise ConfigurationError(f"{name} is empty; give at least one value")
            if len(set(values)) != len(values):
                raise ConfigurationError(
                    f"{name} = {_listed(values)} names a value twice; use repeats to measure again"
                )
        for name in ("ranks", "global_batches"):
            for value in getattr(self, name):
                _positive(name, value)
        _positive("repeats", self.repeats)
        _positive("per_rank_batch", self.per_rank_batch)
        if Scaling.NONE in self.modes:
            raise ConfigurationError("modes: choose from strong, weak")
        if bool(self.epochs) == bool(self.steps):
            raise ConfigurationError(
                f"epochs = {self.epochs}, steps = {self.steps}: give exactly one of them"
            )


def demo() -> StudyParameters:
    """Minutes on two cores: three short repeats, which the report says."""
    return StudyParameters(
        preset=Preset.DEMO,
        ranks=(1, 2),
        # Enough for 0.98 on the digits even at the weak study's doubled batch.
        epochs=16,
        learning_rate=0.1,
        window_steps=30,
        repeats=3,
        warmup_steps=10,
        control_windows=1,
    )


def standard() -> StudyParameters:
    """Enough repeats and windows for intervals that can be compared; tens of minutes."""
    return StudyParameters(
        preset=Preset.STANDARD,
        ranks=(1, 2, 4, 8),
        global_batches=(256,),
        per_rank_batch=128,
        steps=200,
        repeats=5,
        warmup_steps=30,
        # One run after all that are measured; the demo saves its time.
        profiler=Profiler.TORCH,
    )


def thorough() -> StudyParameters:
    """Three global batches and ten repeats: what a publication needs; hours."""
    return replace(
        standard(),
        preset=Preset.THOROUGH,
        global_batches=(128, 256, 512),
        steps=400,
        repeats=10,
        warmup_steps=50,
    )


PRESETS: dict[Preset, Callable[[], StudyParameters]] = {
    Preset.DEMO: demo,
    Preset.STANDARD: standard,
    Preset.THOROUGH: thorough,
}


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ConfigurationError(f"{name} = {value}: must be 1 or more")


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)
