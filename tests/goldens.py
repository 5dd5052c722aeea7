"""Golden files: the text a pure function makes, committed, so that every change of it is seen.

A missing golden fails. Look at the difference, then accept it with the command the failure prints.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
ACCEPT = "ACCEPT_GOLDEN"


def check(name: str, text: str) -> None:
    """Compare *text* with the golden file *name*; with ``ACCEPT_GOLDEN=1`` write it instead."""
    path = GOLDEN / name
    if os.environ.get(ACCEPT) == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return
    found = path.read_text() if path.exists() else ""
    if found == text:
        return
    test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
    diff = "".join(
        difflib.unified_diff(
            found.splitlines(keepends=True), text.splitlines(keepends=True), str(path), "made now"
        )
    )
    missing = "" if path.exists() else f"{path} is missing.\n"
    pytest.fail(f"{missing}{diff}\nAccept it: {ACCEPT}=1 python -m pytest '{test}'", pytrace=False)
