"""How a command reaches Slurm: an argv list goes in, exit code and text come out. No shell."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from trainyard.slurm.errors import CommandMissingError, TransportError

NOT_FOUND = 127
OURS_TO_SET = ("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_", "SCONTROL_")


@dataclass(kw_only=True, slots=True, frozen=True)
class Completed:
    """A command that ran to its end, well or not."""

    rc: int
    """Exit status."""
    stdout: str
    """Standard output; bytes that are no UTF-8 are kept as escapes."""
    stderr: str
    """Standard error."""
    elapsed: float
    """Seconds it took."""


class Transport(Protocol):
    """Runs one command where Slurm's commands are installed. Implementations are thread-safe."""

    def run(self, argv: Sequence[str], stdin: str | None = None, timeout: float = 30) -> Completed:
        """Run *argv* and return how it ended.

        Raises ``TransportError`` when it did not end within *timeout* seconds or the way there
        broke (it may have had its effect all the same, unless it is a ``NotSentError``), and
        ``CommandMissingError`` when the program does not exist (it had none).
        """
        ...


@dataclass(kw_only=True, slots=True, frozen=True)
class LocalTransport:
    """Runs commands on this host.

    Variables that would change what Slurm commands print or submit (``SQUEUE_FORMAT``,
    ``SBATCH_ARRAY``, those of a job this process may itself run in) are kept from them.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables added for the commands, such as ``SLURM_CONF``."""

    def run(self, argv: Sequence[str], stdin: str | None = None, timeout: float = 30) -> Completed:
        """Run *argv* in a process group of its own, which is killed when the time is over."""
        began = time.monotonic()
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment(),
                start_new_session=True,
                text=True,
                errors="backslashreplace",
            )
        except FileNotFoundError as error:
            raise missing(argv) from error
        except OSError as error:
            raise TransportError(f"{argv[0]}: cannot be started: {error.strerror}") from error
        with process:
            try:
                stdout, stderr = process.communicate(stdin, timeout=timeout)
            except subprocess.TimeoutExpired as error:
                _kill_group(process)
                raise TransportError(
                    f"{program(argv)} did not end within {timeout:g} s; it may have had its effect"
                ) from error
        elapsed = time.monotonic() - began
        return Completed(rc=process.returncode, stdout=stdout, stderr=stderr, elapsed=elapsed)

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if name == "SLURM_CONF" or not name.startswith(OURS_TO_SET)
        }
        return kept | dict(self.environment)


def _kill_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended in between
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def program(argv: Sequence[str]) -> str:
    """Return the program of *argv*, behind an ``env NAME=value …`` prefix when there is one."""
    rest = list(argv)
    if rest and rest[0] == "env":
        rest = [word for word in rest[1:] if "=" not in word or "/" in word.split("=")[0]]
    return rest[0].rsplit("/", 1)[-1] if rest else ""


def missing(argv: Sequence[str]) -> CommandMissingError:
    """Return the error for a program that does not exist."""
    return CommandMissingError(
        f"{program(argv)}: no such command; install the Slurm client on this host, or name the "
        "folder of the Slurm commands or a login node in the connection"
    )
