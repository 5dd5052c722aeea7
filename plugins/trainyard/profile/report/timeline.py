"""The zoomable timeline: one HTML file without network, that stays usable with millions of events.

Every lane travels twice: as merged intervals at two grains for the whole profile, and event by
event, with names, for as many steps around the typical one as the budget allows. The page draws
the coarsest that a pixel can show.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainyard.profile import intervals as iv
from trainyard.profile.model import Kind
from trainyard.profile.operators import depths
from trainyard.profile.report.parts import COLOURS, LABELS, coarse, lanes_of, typical_step
from trainyard.profile.steps import phase_of

if TYPE_CHECKING:
    from trainyard.profile.model import Array, Events, RankTrace
    from trainyard.profile.result import ProfileAnalysis, RankAnalysis

TEMPLATES = Path(__file__).parent / "templates"
BUDGET = 150_000
"""Events that travel one by one, 16 bytes each."""
GRAINS = (1_500, 30_000)
"""Merged intervals are finer than this share of the profile's span."""
_KINDS = {Kind.COMPUTE: "compute", Kind.COLLECTIVE: "communication"}


def timeline_html(analysis: ProfileAnalysis, title: str, *, budget: int = BUDGET) -> str:
    """Return the page; at most *budget* events are in it one by one."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("timeline.html.j2")
    return page.render(title=title, data=timeline_data(analysis, budget=budget))


def timeline_data(analysis: ProfileAnalysis, *, budget: int = BUDGET) -> dict[str, Any]:
    """Return what the page draws, as JSON values; columns are base64 of little-endian numbers."""
    names: dict[str, int] = {}
    first, last = _detailed(analysis, budget)
    ranks, whole = [], 0
    for trace, item in zip(analysis.trace.ranks, analysis.ranks, strict=True):
        windows = item.windows
        low, high = int(windows.start[0]), int(windows.end[-1])
        origin = int(analysis.ranks[0].windows.start[0]) if analysis.trace.aligned else low
        top = len(windows.start) - 1
        detail = (int(windows.start[min(first, top)]), int(windows.end[min(last, top)]))
        lane = _Lanes(names, origin, (low, high), detail)
        ranks.append({"rank": item.rank, "lanes": lane.of(trace, item)})
        whole = max(whole, high - origin)
    steps = analysis.ranks[0].windows
    origin = int(steps.start[0])
    return {
        "span": whole / 1e6,
        "steps": _packed((steps.start - origin) / 1e6, np.float64),
        "typical": [
            float(steps.start[typical_step(analysis)] - origin) / 1e6,
            float(steps.end[typical_step(analysis)] - origin) / 1e6,
        ],
        "names": list(names),
        "parts": _PARTS,
        "colours": COLOURS,
        "labels": LABELS,
        "ranks": ranks,
        "complete": first == 0 and last == len(steps.start) - 1,
    }


def _detailed(analysis: ProfileAnalysis, budget: int) -> tuple[int, int]:
    """Return the first and last step whose events all travel, around the typical one."""
    steps = len(analysis.ranks[0].windows.start)
    per_step = max(1, analysis.trace.total // steps)
    fit = max(1, min(steps, budget // per_step))
    middle = typical_step(analysis)
    first = min(max(0, middle - fit // 2), steps - fit)
    return first, first + fit - 1


def _packed(values: Array, kind: Any) -> str:
    column = np.ascontiguousarray(values, dtype=np.dtype(kind).newbyteorder("<"))
    return base64.b64encode(column.tobytes()).decode()


class _Lanes:
    """Makes the lanes of one rank."""

    def __init__(
        self,
        names: dict[str, int],
        origin: int,
        bounds: tuple[int, int],
        detail: tuple[int, int],
    ) -> None:
        self.names = names
        self.origin = origin
        self.bounds = bounds
        self.detail = detail

    def of(self, trace: RankTrace, item: RankAnalysis) -> list[dict[str, Any]]:
        """Return all lanes, the device's first."""
        lanes = []
        work = trace.device
        for stream in np.unique(work.stream):
            mine = work.where(work.stream == stream)
            parts = [_KINDS.get(Kind(k), "other_copies") for k in range(len(Kind))]
            colour = np.array([_place(part) for part in parts])[mine.kind]
            lanes.append(self._lane(f"stream {stream}", mine, trace.names, colour))
        for lane, parts_ in lanes_of(item).items():
            if lane not in {"idle because", "phases"}:
                continue
            spans = {part: item.spans[part] for part in parts_ if len(item.spans[part])}
            lanes.append(self._parts(lane, spans))
        ranges = trace.ranges.where(trace.ranges.thread == item.windows.thread)
        # Of two ranges that begin together the longer one is the outer.
        ranges = ranges.where(np.lexsort((-ranges.end, ranges.start)))
        depth = depths(ranges)
        for level in range(min(6, int(depth.max()) + 1 if len(ranges) else 0)):
            mine = ranges.where(depth == level)
            colour = np.array([_place(phase_of(name)) for name in trace.names])[mine.name]
            lanes.append(
                self._lane(f"ranges {level}" if level else "ranges", mine, trace.names, colour)
            )
        calls = trace.calls
        for thread in np.unique(calls.thread)[:4]:
            mine = calls.where(calls.thread == thread)
            label = f"calls of {int(thread) & 0xFFFFFF}"
            lanes.append(self._lane(label, mine, trace.names, np.full(len(mine), _place(""))))
        return [lane for lane in lanes if lane is not None]

    def _lane(
        self, label: str, table: Events, names: tuple[str, ...], colour: Array
    ) -> dict[str, Any] | None:
        low, high = self.bounds
        if not bool(((table.end > low) & (table.start < high)).any()):
            return None
        spans = iv.clip(iv.union(table.start, table.end), low, high)
        inside = (table.end > self.detail[0]) & (table.start < self.detail[1])
        used, index = np.unique(table.name[inside], return_inverse=True)
        known = np.array([self._name(names[number]) for number in used], dtype=np.int32)
        return {
            "label": label,
            **self._levels(spans),
            "raw": self._raw(
                table.start[inside],
                table.end[inside],
                known[index] if used.size else index,
                colour[inside],
            ),
        }

    def _name(self, text: str) -> int:
        return self.names.setdefault(text, len(self.names))

    def _parts(self, label: str, spans: dict[str, iv.Spans]) -> dict[str, Any] | None:
        """Return one lane of disjoint spans of several parts."""
        if not spans:
            return None
        start = np.concatenate([s.start for s in spans.values()])
        end = np.concatenate([s.end for s in spans.values()])
        colour = np.concatenate([np.full(len(s), _place(part)) for part, s in spans.items()])
        named = [self._name(LABELS[part]) for part in spans]
        name = np.concatenate(
            [np.full(len(s), n) for s, n in zip(spans.values(), named, strict=True)]
        )
        order = np.argsort(start, kind="stable")
        inside = order[(end[order] > self.detail[0]) & (start[order] < self.detail[1])]
        raw = self._raw(start[inside], end[inside], name[inside], colour[inside])
        return {"label": label, **self._levels(iv.union(start, end)), "raw": raw}

    def _cut(self, end: int) -> bool:
        return self.detail[end] != self.bounds[end]

    def _levels(self, spans: iv.Spans) -> dict[str, Any]:
        low, high = self.bounds
        levels = []
        for grain in GRAINS:
            merged = coarse(spans, (high - low) // grain)
            levels.append(
                {
                    "grain": (high - low) / grain / 1e6,
                    "start": _packed((merged.start - self.origin) / 1e6, np.float64),
                    "length": _packed((merged.end - merged.start) / 1e6, np.float32),
                }
            )
        return {"levels": levels}

    def _raw(self, start: Array, end: Array, name: Array, colour: Array) -> dict[str, Any]:
        return {
            # Where the profile ends there is nothing more to know: the detail reaches further.
            "from": (self.detail[0] - self.origin) / 1e6 if self._cut(0) else -_FAR,
            "to": (self.detail[1] - self.origin) / 1e6 if self._cut(1) else _FAR,
            "start": _packed((start - self.origin) / 1e6, np.float64),
            "length": _packed((end - start) / 1e6, np.float32),
            "name": _packed(name, np.uint32),
            "colour": _packed(colour, np.uint8),
        }


_PARTS = list(COLOURS)
_FAR = 1e15


def _place(part: str) -> int:
    """Return the place of a part's colour; 255 for none."""
    return _PARTS.index(part) if part in COLOURS else 255
