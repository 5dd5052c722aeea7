"""How a run fails: the errors a run raises, and what each is called in result.json."""

from __future__ import annotations


class RunError(Exception):
    """The run cannot go on; the message names value, rule and next step. Exit code 1."""

    exit_code = 1


class BadInputError(RunError):
    """The run could never have started as asked: its spec or launch is wrong. Exit code 2."""

    exit_code = 2


class DataError(RunError):
    """The prepared data set is missing, damaged or another one than the spec names."""


class LossError(RunError):
    """The loss is no number any more: the parameters are lost."""


class ProfileError(RunError):
    """The profile that the spec asks for could not be taken."""


class CheckpointError(RunError):
    """A checkpoint cannot be used for this run."""


_MEMORY_SIGNS = ("can't allocate memory", "out of memory", "cannot allocate memory")
_PEER_SIGNS = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "socket timeout",
    "timed out waiting",
    "timed out after",
    "watchdog",
    "nccl error",
    "ncclremoteerror",
    "gloo",
    "recvvalue failed",
    "connection was likely closed",
    "store_based_barrier",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether *error* says that host or device memory ran out, in any of torch's ways to say it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, (RuntimeError, OSError)) and any(s in text for s in _MEMORY_SIGNS)


def is_consequence(error: BaseException) -> bool:
    """Whether *error* only reports that another rank is gone: its own failure is the cause."""
    if isinstance(error, RunError) or is_out_of_memory(error):
        return False
    text = str(error).lower()
    return isinstance(error, (RuntimeError, OSError)) and any(s in text for s in _PEER_SIGNS)


def describe(error: BaseException) -> str:
    """Return *error* as one reason: what happened and, where it is known, what to do."""
    first = str(error).strip().split("\n")[0][:500]
    if is_out_of_memory(error):
        detail = first or type(error).__name__
        return f"out of memory: {detail}. Choose a smaller per_rank_batch or fewer ranks per node"
    if isinstance(error, RunError):
        return first
    if is_consequence(error):
        return f"lost contact with another rank: {first}"
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
