"""What every probe is given and gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from trainer.contract import Fact, Measurement, Problem


@dataclass(kw_only=True, slots=True, frozen=True)
class Place:
    """Where and how thoroughly to probe."""

    root: Path = Path("/")
    """Where /proc and /sys lie; elsewhere only in tests."""
    run_dir: Path = Path()
    """Folder of runs, whose disk is measured."""
    data_dir: Path = Path()
    """Folder of data."""
    quick: bool = False
    """Shorter measurements with fewer repeats."""
    foreign: str = ""
    """Other programs on the GPUs, found before any of ours began there; empty: none."""


@dataclass(kw_only=True, slots=True)
class Found:
    """What one probe found, gathered while it looks."""

    facts: list[Fact] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def fact(
        self, name: str, value: object, *, source: str, unit: str = "", stable: bool = True
    ) -> None:
        """Add a fact; one without a value is left out."""
        if value is None or value == "":
            return
        text = f"{value:.6g}" if isinstance(value, float) else str(value)
        self.facts.append(Fact(name=name, value=text, unit=unit, source=source, stable=stable))

    def problem(self, probe: str, what: str, fix: str = "") -> None:
        """Add what could not be found out, or is wrong."""
        self.problems.append(Problem(probe=probe, what=what, fix=fix))


Probe = Callable[[Place], Found]


def read(path: Path) -> str:
    """Return the text of *path* without surrounding space, empty where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
