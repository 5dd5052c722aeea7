"""Errors a user can act on: each names the value, the rule, the valid choices and the next step."""

from __future__ import annotations


class TrainyardError(Exception):
    """Base of every error Trainyard raises on purpose."""


class ConfigurationError(TrainyardError):
    """A parameter, site or suite is wrong; trying again without a change is useless."""


class UnavailableError(TrainyardError):
    """A service or machine does not answer; trying again later may help."""


class DatasetError(TrainyardError):
    """A data set is not what its publisher says, or cannot be staged safely."""


class RunFailedError(TrainyardError):
    """A training run ended without a valid result; the message holds the log's tail."""


class RunLostError(TrainyardError):
    """A training run is gone and left neither a result nor an exit code."""


class RunCancelledError(RunFailedError):
    """A training run was ended because somebody asked for it."""


class EnvironmentFailedError(TrainyardError):
    """A machine or service is not ready to measure on; the message lists every fix."""


class ProfileError(TrainyardError):
    """A profile cannot be read, or holds nothing to analyse; the message says what to do."""
