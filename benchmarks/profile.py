"""``make bench-profile``: the figures of the profile analysis, one JSON object on the last line.

Each module of ``MODULES`` measures its part and returns named figures; a new one is a line there.
Options shorten it: ``--events``, ``--hta-events``, ``--pairs``, ``--only``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import (
    profile_cases,
    profile_hta,
    profile_overhead,
    profile_probes,
    profile_scale,
)
from benchmarks.figures import machine, missed

MODULES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "cases": lambda _: profile_cases.figures(),
    "scale": lambda chosen: profile_scale.figures(events=chosen.events),
    "hta": lambda chosen: profile_hta.figures(events=chosen.hta_events),
    "overhead": lambda chosen: profile_overhead.measure(pairs=chosen.pairs),
    "probes": lambda _: profile_probes.measure(),
}
TARGETS: dict[str, tuple[str, float]] = {
    "intervals_per_s": (">=", 500_000),
    "scale_seconds": ("<=", 20),
    "scale_peak_gb": ("<=", 2),
    "scale_worst_error": ("<=", 0.01),
    "vs_hta": (">=", 5),
    "hta_worst_difference": ("<=", 0.001),
    "cases_worst_error": ("<=", 0.01),
    "worked_case_exact": (">=", 1),
    "probe_suite_s": ("<=", 60),
    "triad_vs_stream": (">=", 0.9),
    "matmul_vs_openblas": (">=", 0.9),
}
"""What the issue and docs/profiles.md promise of each figure."""


def main() -> None:
    """Measure everything and print the JSON object."""
    parser = argparse.ArgumentParser(description="The figures of the profile analysis.")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--hta-events", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=MODULES, default=list(MODULES))
    chosen = parser.parse_args()
    figures: dict[str, Any] = {"machine": machine()}
    for name in chosen.only:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        figures |= MODULES[name](chosen)
    print(json.dumps({**figures, "missed": missed(figures, TARGETS)}))


if __name__ == "__main__":
    main()
