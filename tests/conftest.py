"""Fixtures shared by both test environments; heavy imports stay inside the fixtures."""

from __future__ import annotations

pytest_plugins: list[str] = []
