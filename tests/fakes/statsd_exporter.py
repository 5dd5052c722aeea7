"""A stand-in for prometheus/statsd_exporter, which no package here provides.

Takes recorded StatsD lines with InfluxDB tags, applies containers/statsd/mapping.yaml as that
program's README describes it (globs, a last regular expression, drop, labels, histograms of timers
in seconds) and refuses anything it would have to guess. What it cannot show is that the real
program reads the mapping file the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
MAPPING = ROOT / "containers" / "statsd" / "mapping.yaml"
RECORDED = ROOT / "tests" / "golden" / "statsd" / "datagrams.txt"
# Fields of mapper.go (MetricMapper, MapperConfigDefaults, MetricMapping) in v0.28.
TOP = {"defaults", "mappings"}
DEFAULTS = {"observer_type", "histogram_options", "summary_options", "match_type", "ttl",
            "glob_disable_ordering", "buckets", "quantiles", "timer_type"}  # fmt: skip
FIELDS = {"match", "match_type", "name", "help", "labels", "action", "ttl", "observer_type",
          "histogram_options", "summary_options", "match_metric_type", "scale",
          "honor_labels"}  # fmt: skip
Labels = tuple[tuple[str, str], ...]
_LINE = re.compile(
    r"(?P<name>[^,:]+)(?P<tags>(?:,[^,=:]+=[^,:]*)*):(?P<value>[^|]+)\|(?P<type>\w+)"
)


@dataclass
class Histogram:
    """Observations of one series."""

    buckets: list[float]
    counts: list[int]
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        self.total += seconds
        for place, end in enumerate(self.buckets):
            self.counts[place] += seconds <= end


@dataclass
class StatsdExporter:
    """Applies the mapping to lines and tells the result in Prometheus's text format."""

    config: Mapping[str, Any] = field(default_factory=lambda: yaml.safe_load(MAPPING.read_text()))
    series: dict[str, dict[Labels, Any]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        unknown = (set(self.config) - TOP) | (set(self.config["defaults"]) - DEFAULTS)
        unknown |= {key for one in self.config["mappings"] for key in set(one) - FIELDS}
        if unknown:
            raise ValueError(f"statsd_exporter knows no field {sorted(unknown)}")

    def take(self, lines: Iterable[str]) -> None:
        for line in lines:
            found = _LINE.fullmatch(line)
            if found is None:
                raise ValueError(f"{line!r} is no StatsD line with tags")
            mapping = self.find(found["name"])
            if mapping.get("action") == "drop":
                self.dropped.add(found["name"])
                continue
            tags = dict(pair.split("=", 1) for pair in found["tags"].split(",") if pair)
            labels = tuple(sorted((tags | mapping.get("labels", {})).items()))
            self._count(mapping["name"], labels, found["value"], found["type"])

    def find(self, name: str) -> Mapping[str, Any]:
        """The first mapping that fits: globs before regular expressions."""
        for mapping in self.config["mappings"]:
            kind = mapping.get("match_type", self.config["defaults"]["match_type"])
            if kind == "glob" and "*" in mapping["match"]:
                raise NotImplementedError(f"a glob with *: {mapping['match']}")
            if kind == "glob" and mapping["match"] == name:
                self.used.add(name)
                return mapping
            if kind == "regex" and re.search(mapping["match"], name):
                return mapping
        raise ValueError(f"{name}: no mapping fits, so its name would become a metric as it is")

    def _count(self, name: str, labels: Labels, value: str, kind: str) -> None:
        known = self.types.setdefault(name, kind)
        if known != kind:
            raise ValueError(
                f"{name} is both {known} and {kind}: statsd_exporter drops one of them"
            )
        of = self.series.setdefault(name, {})
        if kind == "c":
            of[labels] = of.get(labels, 0.0) + float(value)
        elif kind == "g":
            change = value[0] in "+-"
            of[labels] = (of.get(labels, 0.0) if change else 0.0) + float(value)
        elif kind == "ms":
            ends = [*self.config["defaults"]["histogram_options"]["buckets"], float("inf")]
            of.setdefault(labels, Histogram(ends, [0] * len(ends))).observe(float(value) / 1000)
        else:
            raise NotImplementedError(f"StatsD type {kind}")

    def text(self) -> str:
        """What ``GET /metrics`` would answer."""
        out = []
        words = {"c": "counter", "g": "gauge", "ms": "histogram"}
        for name, of in self.series.items():
            out.append(f"# TYPE {name} {words[self.types[name]]}")
            for labels, value in of.items():
                if isinstance(value, Histogram):
                    out += _histogram(name, labels, value)
                else:
                    out.append(f"{name}{_braces(labels)} {value}")
        return "\n".join(out) + "\n"


def _histogram(name: str, labels: Labels, value: Histogram) -> list[str]:
    lines = []
    for end, count in zip(value.buckets, value.counts, strict=True):
        le = "+Inf" if end == float("inf") else f"{end:g}"
        lines.append(f"{name}_bucket{_braces((*labels, ('le', le)))} {count}")
    lines.append(f"{name}_sum{_braces(labels)} {value.total}")
    lines.append(f"{name}_count{_braces(labels)} {value.counts[-1]}")
    return lines


def _braces(labels: Labels) -> str:
    inside = ",".join(f'{key}="{value}"' for key, value in labels)
    return f"{{{inside}}}" if inside else ""
