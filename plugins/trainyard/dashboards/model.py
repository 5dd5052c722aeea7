"""What a dashboard is here: panels with queries, units, thresholds; nothing of Grafana's JSON."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """How a panel shows its numbers."""

    LINES = "timeseries"
    STAT = "stat"
    BARS = "bargauge"
    TABLE = "table"


class Needs(StrEnum):
    """What a panel's data comes from and this repository's tests cannot provide."""

    GPU = "a GPU, and for the machine's own the DCGM exporter"
    INFERENCE = "a model server; nothing in Trainyard emits its latency yet"


@dataclass(kw_only=True, slots=True, frozen=True)
class Query:
    """One question to Prometheus."""

    expr: str
    """PromQL; ``$site`` and the like are the dashboard's variables."""
    legend: str = ""
    """Name of a series: ``{{label}}``; empty: all its labels."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Panel:
    """One picture that answers one question."""

    title: str
    """Title."""
    description: str
    """What it says, what is good, what to do when it is not."""
    queries: tuple[Query, ...]
    """What it shows."""
    unit: str
    """Grafana's id of the unit."""
    kind: Kind = Kind.LINES
    """How it shows it."""
    width: int = 12
    """Columns of 24."""
    warn: float | None = None
    """From here on it is yellow."""
    bad: float | None = None
    """From here on it is red; below ``warn`` where less is worse."""
    least: float | None = None
    """Lower end of the axis."""
    most: float | None = None
    """Upper end of the axis."""
    needs: Needs | None = None
    """What must be there for it to show anything."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    """Heading."""
    panels: tuple[Panel, ...]
    """Panels from left to right."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Variable:
    """A choice at the top of the dashboard."""

    name: str
    """Name, used as ``$name``."""
    label: str
    """What a person reads."""
    metric: str
    """Series (with a selector, if any) whose label values are the choices."""
    key: str
    """That label."""
    everything: bool = True
    """Several or all may be chosen; false: exactly one."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Dashboard:
    """One page."""

    uid: str
    """Stable id, also the name of its file."""
    title: str
    """Title."""
    description: str
    """Which questions it answers."""
    since: str
    """Beginning of the time shown, as Grafana writes it."""
    refresh: str
    """How often it is drawn anew."""
    variables: tuple[Variable, ...]
    """Choices."""
    rows: tuple[Row, ...]
    """Content."""

    @property
    def panels(self) -> tuple[Panel, ...]:
        """Every panel in order."""
        return tuple(panel for row in self.rows for panel in row.panels)
