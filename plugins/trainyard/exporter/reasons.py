"""Why a run failed, as one of a few words: reasons are sentences, and label values must be few."""

from __future__ import annotations

import re

OTHER = "other"
_SIGNS: tuple[tuple[str, str], ...] = (
    ("oom", r"out of memory|too much memory|oom.?kill|cannot allocate memory"),
    ("timeout", r"it was stopped after|time limit|deadline"),
    ("diverged", r"\bloss is (nan|-?inf)"),
    ("sanity", r"sanity check failed"),
    ("not_started", r"never started|did not boot|could not be launched"),
    ("node", r"a node died|node.?fail"),
    ("rank_lost", r"lost contact with another rank|ended without a word"),
    ("data", r"data set|dataset"),
    ("checkpoint", r"checkpoint"),
    ("stopped", r"stopped by sigterm|told to end by signal"),
    ("disk", r"no space left|disk full|quota"),
)
REASONS = (*(name for name, _ in _SIGNS), "killed", OTHER)
"""Every class, in the order in which they are tried."""
_KILLED = 137  # 128 + SIGKILL, as a shell reports it


def classify(reason: str, exit_code: int | None) -> str:
    """Return the class of a failed run's *reason*.

    An exit code of 137 without a word is ``killed``: often the kernel for want of memory, but
    also anybody's SIGKILL, so it does not count as ``oom``.
    """
    for name, sign in _SIGNS:
        if re.search(sign, reason, re.IGNORECASE):
            return name
    return "killed" if exit_code == _KILLED else OTHER
