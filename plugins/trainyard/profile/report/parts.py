"""Parts of a step as a reader sees them: their names, colours and order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainyard.profile import intervals as iv
from trainyard.profile.result import PART_COLUMNS, Mode
from trainyard.report import style

if TYPE_CHECKING:
    from trainyard.profile.intervals import Spans
    from trainyard.profile.model import Array
    from trainyard.profile.result import ProfileAnalysis, RankAnalysis

LABELS = {
    "compute": "compute",
    "communication": "communication",
    "exposed_comm": "exposed communication",
    "exposed_h2d": "exposed copies to device",
    "other_copies": "other copies",
    "data": "waiting for data",
    "sync": "synchronisation",
    "host": "late launch",
    "unexplained": "unexplained idle",
    "forward": "forward",
    "backward": "backward",
    "optimizer": "optimizer",
    "collective": "communication",
    "other": "outside any phase",
}
COLOURS = {
    "compute": style.BLUE,
    "communication": style.ORANGE,
    "exposed_comm": style.ORANGE,
    "exposed_h2d": style.GREEN,
    "other_copies": "#7fb8a6",
    "data": style.AMBER,
    "sync": style.PURPLE,
    "host": "#b9a3c4",
    "unexplained": style.FAINT,
    "forward": style.SKY,
    "backward": style.BLUE,
    "optimizer": style.GREEN,
    "collective": style.ORANGE,
    "other": "#b9a3c4",
}


def columns_of(mode: Mode) -> tuple[str, ...]:
    """Return the parts that add up to a step."""
    return PART_COLUMNS[mode]


def lanes_of(rank: RankAnalysis) -> dict[str, tuple[str, ...]]:
    """Return the lanes of a rank's picture with the parts drawn in each."""
    if rank.mode is Mode.HOST:
        return {"phases": PART_COLUMNS[Mode.HOST][:-1]}
    return {
        "compute": ("compute",),
        "communication": ("communication",),
        "copies": ("exposed_h2d", "other_copies"),
        "idle because": ("data", "sync", "host"),
    }


def typical_step(analysis: ProfileAnalysis) -> int:
    """Return the place of the step whose length is nearest the median of rank 0's."""
    length = analysis.ranks[0].windows.length
    return int(np.abs(length - np.median(length)).argmin())


def coarse(spans: Spans, grain: int) -> Spans:
    """Return *spans* with gaps shorter than *grain* closed: at most one span per grain and gap."""
    if grain <= 0 or not len(spans):
        return spans
    gap = spans.start[1:] - spans.end[:-1]
    kept = np.concatenate([[True], gap >= grain])
    places = np.flatnonzero(kept)
    last: Array = np.append(places[1:], len(spans)) - 1
    return iv.Spans(spans.start[places], spans.end[last])
