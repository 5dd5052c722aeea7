"""What the trigger form of ``profile_run`` adds to a training run's."""

from __future__ import annotations

from airflow.sdk import Param

from trainer.contract import Profiler, Stall
from trainyard.operators.fields import HOW, SIZE, count

_PLANTED = "Self-test"


def profile_form() -> dict[str, Param]:
    """Return what is profiled and how; its steps take the place of those of ``work_form``."""
    kinds = [kind.value for kind in Profiler if kind is not Profiler.NONE]
    return {
        "profiler": Param(
            Profiler.TORCH.value,
            type="string",
            enum=kinds,
            values_display={
                "torch": "torch.profiler: part of PyTorch, works everywhere",
                "nsys": "Nsight Systems: the whole process; must be installed where runs happen",
                "ncu": "Nsight Compute: counters per kernel; one rank on a GPU, permission",
            },
            title="Profiler",
            description="What captures the last steps of every rank.",
            section=HOW,
        ),
        "profile_steps": count(
            12,
            "Captured steps",
            "Steps that are captured at the end; 10 to 20 steady ones are enough.",
            2,
            200,
            HOW,
        ),
        **_size_form(),
        **_stall_form(),
    }


def _size_form() -> dict[str, Param]:
    """Return how long runs are, how many there are, and whether the suggestion is tried."""
    return {
        "steps": Param(
            100,
            type=["integer", "null"],
            minimum=1,
            maximum=1_000_000,
            title="Steps",
            description="Optimizer steps of each run: warm-up, timed windows, captured steps.",
            section=HOW,
        ),
        "repeats": count(
            3,
            "Pairs",
            "Pairs of a plain and a profiled run; the cost of profiling has an interval from 2 on.",
            1,
            20,
            SIZE,
        ),
        "try_suggestion": Param(
            False,
            type="boolean",
            title="Try the suggestion",
            description="Run the pairs again with the first field that the verdict suggests.",
            section=SIZE,
        ),
    }


def _stall_form() -> dict[str, Param]:
    """Return the planted slowness: proof that the verdict finds what is known to be there."""
    return {
        "stall": Param(
            Stall.NONE.value,
            type="string",
            enum=[kind.value for kind in Stall],
            values_display={
                "none": "none: profile the run as it is",
                "input": "input: every batch is read late",
                "host": "host: idle before each forward pass",
                "rank": "rank: the last rank computes longer",
            },
            title="Planted stall",
            description="A self-test: the verdict must name the stall planted here.",
            section=_PLANTED,
        ),
        "stall_ms": Param(
            0,
            type="number",
            minimum=0,
            maximum=10_000,
            title="Stall, ms",
            description="Milliseconds of the planted stall per step; 0 without one.",
            section=_PLANTED,
        ),
    }
