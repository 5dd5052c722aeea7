"""What to do when a test's system component is missing: skip for a user, fail in CI."""

from __future__ import annotations

import os

import pytest


def need(present: object, what: str) -> None:
    """Skip the test with *what* as its reason, or fail it where ``CI=true`` promised everything."""
    if present:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"missing, although CI=true: {what}")
    pytest.skip(what)
