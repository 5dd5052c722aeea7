"""What can go wrong when Slurm is asked. "No such job" is an answer, not one of these."""

from __future__ import annotations

from trainyard.errors import ConfigurationError, TrainyardError, UnavailableError


class SlurmError(TrainyardError):
    """Base of the errors of the Slurm engine."""


class ControllerUnreachableError(SlurmError, UnavailableError):
    """slurmctld did not answer: nothing is known, so nothing may be concluded."""


class AccountingUnreachableError(SlurmError, UnavailableError):
    """slurmdbd did not answer, or accounting is switched off on this cluster."""


class TransportError(SlurmError, UnavailableError):
    """The command could not be run or did not end in time; it may have had its effect."""


class NotSentError(TransportError):
    """The way to Slurm is closed: the command did not begin, so it had no effect."""


class LoginError(SlurmError, ConfigurationError):
    """The login node cannot be trusted or does not let us in; somebody must correct that."""


class HostKeyError(LoginError):
    """The login node shows a key that nobody vouched for, or another one than it should."""


class CommandMissingError(SlurmError, ConfigurationError):
    """A Slurm command is not installed where the transport runs commands."""


class GarbageOutputError(SlurmError, UnavailableError):
    """A command ended well but printed what its format cannot produce: never an empty answer."""


class CommandFailedError(SlurmError):
    """A command refused or failed in a way that is none of the known ones."""


class SubmissionRefusedError(SlurmError, ConfigurationError):
    """Slurm said no to a job: submitting it again without a change is useless."""


class SubmissionUnsentError(SlurmError, UnavailableError):
    """The job never reached the controller: nothing was submitted, trying later is safe."""


class SubmissionUnknownError(SlurmError, UnavailableError):
    """Nobody can say yet whether the job was accepted; the next try goes on searching."""
