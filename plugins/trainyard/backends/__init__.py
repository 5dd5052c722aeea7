"""Backends: what starts, watches and ends the process behind a run. One per launcher.

A backend decides nothing about the work: it takes a finished ``Launch`` and reports evidence. It
never interprets results; ``trainyard.outcome`` does.
"""

from __future__ import annotations

from trainyard.backends.base import Backend, Observation, State
from trainyard.errors import ConfigurationError
from trainyard.sites import Launcher, Site

__all__ = ["Backend", "Observation", "State", "open_backend"]


def open_backend(site: Site) -> Backend:
    """Return the backend that runs things on *site*; imports only the one that is needed."""
    if site.launcher is Launcher.PROCESS:
        from trainyard.backends.process import ProcessBackend

        return ProcessBackend()
    raise ConfigurationError(
        f"site {site.name!r}: launcher {str(site.launcher)!r} has no backend; choose from process"
    )
