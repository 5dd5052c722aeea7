"""Checks of an environment as a text table, for a task's log."""

from __future__ import annotations

from collections.abc import Sequence

from trainyard.store import EnvironmentCheck


def table(checks: Sequence[EnvironmentCheck]) -> str:
    """Return *checks* as a text table, one line each and the fix below what needs one."""
    rows = [("check", "verdict", "measured", "requirement")]
    rows += [(check.name, check.verdict, check.measured, check.requirement) for check in checks]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = []
    for row, check in zip(rows, [None, *checks], strict=True):
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[3]]).rstrip())
        if check is not None and check.detail:
            lines.append(f"{'':{widths[0]}}  -> {check.detail}")
    return "\n".join(lines)
