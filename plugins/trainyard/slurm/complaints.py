"""What Slurm's commands say on standard error, sorted by what it means for us.

Texts: Slurm's ``src/common/slurm_errno.c`` and what 22.05's commands printed when provoked.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from trainyard.slurm.errors import (
    AccountingUnreachableError,
    CommandFailedError,
    CommandMissingError,
    ControllerUnreachableError,
    SlurmError,
)
from trainyard.slurm.transport import NOT_FOUND, Completed


class Sent(Enum):
    """What an sbatch error says about the job."""

    REFUSED = auto()
    """Slurm, or sbatch itself, said no: there is no job."""
    UNSENT = auto()
    """The request did not reach the controller: there is no job."""
    UNKNOWN = auto()
    """The request may have been accepted."""


_UNREACHABLE = re.compile(
    r"Unable to contact slurm controller|Socket timed out|Connection (refused|reset|timed out)"
    r"|Zero Bytes were transmitted|Unable to establish controller|Communication connection"
    r"|Resource temporarily unavailable|Unexpected message received|temporarily unable to accept"
    r"|in standby mode|[Aa]uthentication (credential|error)|[Mm]unge|configuration source"
    r"|Transport endpoint|No route to host|Network is unreachable|recv zero bytes"
)
_DATABASE = re.compile(
    r"slurmdbd|database|persist|accounting storage is disabled|Connection refused", re.IGNORECASE
)
_NO_SUCH_JOB = re.compile(r"Invalid job id specified")
_MISSING = re.compile(r"No such file or directory|command not found|not found")

_UNSENT = re.compile(
    r"connect failure|configuration source|Connection refused|No route to host"
    r"|Network is unreachable"
)

_REFUSALS: tuple[tuple[str, str], ...] = (
    (r"[Ii]nvalid partition", "choose a partition that `sinfo` lists; set it in the site"),
    (r"Invalid account|account/partition combination|account or", "check account and partition"),
    (r"Invalid (qos|QOS)", "choose a QOS that `sacctmgr show assoc user=$USER` allows"),
    (r"Invalid feature|constraint", "choose a constraint among the features of `sinfo -o %f`"),
    (r"generic resource|gres", "check the site's GPUs against `sinfo -o %G`"),
    (
        r"node configuration is not available|Node count specification|More processors",
        "ask for fewer nodes, cores, GPUs or less memory, or for another partition",
    ),
    (r"Memory (required|specification)|Memory.*exceed", "lower the memory or raise its limit"),
    (r"time limit|--time|Requested time", "lower the time limit to the partition's MaxTime"),
    (r"parameter too long|script.*(too large|size)", "shorten the script: put data in files"),
    (r"does not look like a batch script", "the script must begin with #! and an interpreter"),
    (r"unrecognized option|invalid option|Try \"sbatch --help\"", "this sbatch lacks the option"),
    (r"job array", "keep array indices below MaxArraySize of `scontrol show config`"),
    (r"Invalid node name", "the node list or quarantine names a node this cluster lacks"),
    (r"dependency", "name jobs this cluster knows in the dependency"),
    (r"reservation", "name a reservation that `scontrol show reservation` lists"),
    (r"accounting/QOS policy|AssocMax|QOSMax|job submit limit", "a limit of account or QOS is met"),
    (r"[Pp]ermission|Access.*denied|Invalid user id", "ask the administrators for access"),
    (r"Invalid --|Invalid .* specification", "correct the option sbatch names"),
    (r"Requested partition.*|group not allowed|user not allowed", "use another partition"),
    (r"Batch script (is )?empty|DOS line breaks", "render the script again"),
)


def missing_program(done: Completed) -> bool:
    """Return whether the command itself was not found (127 from ``env`` or a remote shell)."""
    return done.rc == NOT_FOUND and _MISSING.search(done.stderr) is not None


def no_such_job(done: Completed) -> bool:
    """Return whether the controller answered that it does not know the job id."""
    return done.rc != 0 and _NO_SUCH_JOB.search(done.stderr) is not None


def query_error(command: str, done: Completed) -> SlurmError | None:
    """Return the error a query ended with, or None for an answer.

    Exit status 0 with nothing printed but a complaint is no answer either: that is how a hiccup
    looks that others take for an empty queue.
    """
    said = done.stderr.strip()
    silent_failure = not done.stdout.strip() and "error:" in said
    if done.rc == 0 and not silent_failure:
        return None
    text = f"{command} (exit status {done.rc}): {said[-400:] or 'no message'}"
    if missing_program(done):
        return CommandMissingError(f"{text}; install the Slurm client there")
    if command == "sacct" and _DATABASE.search(said):
        return AccountingUnreachableError(
            f"{text}; going on without accounting: exit-code files and the controller decide"
        )
    if _UNREACHABLE.search(said):
        return ControllerUnreachableError(f"{text}; nothing is concluded from it, asking again")
    return CommandFailedError(f"{text}; run the command by hand where Trainyard runs it")


def sbatch_verdict(done: Completed) -> tuple[Sent, str]:
    """Return what a failed sbatch says about the job, and the fix (or why it is unknown)."""
    said = done.stderr
    if missing_program(done):
        return Sent.UNSENT, "install the Slurm client where Trainyard submits"
    if _UNSENT.search(said):
        return Sent.UNSENT, "the controller is down or unreachable from here"
    if _UNREACHABLE.search(said):
        return Sent.UNKNOWN, "the controller may have accepted the job"
    for pattern, fix in _REFUSALS:
        if re.search(pattern, said):
            return Sent.REFUSED, fix
    return Sent.UNKNOWN, "sbatch failed in an unknown way"
