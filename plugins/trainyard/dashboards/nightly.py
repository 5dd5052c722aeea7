"""Nightly benchmarks: the last figures with their intervals, and whether they got worse."""

from __future__ import annotations

from trainyard.dashboards.model import Dashboard, Kind, Panel, Query, Row, Variable

_CONFIG = '{suite=~"$suite", site=~"$site", metric="$metric"}'
_ENDED = "trainyard_nightly_last_ended_timestamp_seconds"
_SITE = '{site=~"$site"}'


def _figure(name: str, legend: str) -> Query:
    return Query(expr=f"trainyard_benchmark_{name}{_CONFIG}", legend=f"{{{{config}}}} {legend}")


_LAST = Row(
    title="The last night",
    panels=(
        Panel(title="Since the last result", kind=Kind.STAT, unit="s", width=6,
              description="Since the last nightly benchmark ended; NoNightlyResult after 26 h.",
              queries=(Query(expr=f"time() - {_ENDED}{_SITE}", legend="{{site}}"),),
              warn=25 * 3600, bad=26 * 3600),
        Panel(title="Complete", kind=Kind.STAT, unit="bool_yes_no", width=6, warn=1, bad=0,
              description="Whether every planned run completed.",
              queries=(Query(expr=f"trainyard_nightly_last_success{_SITE}", legend="{{site}}"),)),
        Panel(title="Its runs", kind=Kind.BARS, unit="none", width=12, least=0,
              description="Planned, stored, completed, and comparable: those without a flag.",
              queries=(Query(expr=f"trainyard_nightly_last_runs{_SITE}",
                             legend="{{site}} {{state}}"),)),
        Panel(title="What it ran", kind=Kind.TABLE, unit="none", width=24,
              description="Study, commit and torch of the last night.",
              queries=(Query(expr=f"trainyard_nightly_last_info{_SITE}"),)),
    ),
)  # fmt: skip

_FIGURES = Row(
    title="Figures",
    panels=(
        Panel(title="Median over runs", unit="none", width=24,
              description="The chosen metric of each configuration in its last study, in the "
              "metric's own unit, with its 95 % interval over runs (docs/report.md).",
              queries=(_figure("median", ""), _figure("low", "low"), _figure("high", "high"))),
        Panel(title="Against what earlier nights predict", unit="percentunit", kind=Kind.BARS,
              description="Relative distance from the centre of the reference. Which sign is worse "
              "depends on the metric.",
              queries=(_figure("change_ratio", ""),)),
        Panel(title="Reference", unit="none",
              description="Where one more night is expected, from five earlier nights or more on "
              "the same machine.",
              queries=(_figure("reference_low", "low"), _figure("reference_high", "high"))),
        Panel(title="Comparable runs behind a figure", unit="none", kind=Kind.BARS, least=0,
              description="One run has no interval, fewer than five an interval that leans on an "
              "assumption.",
              queries=(_figure("runs", ""),)),
    ),
)  # fmt: skip

_WORSE = Row(
    title="Regressions",
    panels=(
        Panel(title="States of all configurations", unit="none", width=12, kind=Kind.BARS, least=0,
              description="How many are steady, suspected (one night), confirmed (two in a row), "
              "or unknown for want of nights.",
              queries=(Query(expr="sum by (state) (trainyard_regression{suite=~\"$suite\", "
                             "site=~\"$site\"})", legend="{{state}}"),)),
        Panel(title="Suspected and confirmed", unit="none", kind=Kind.TABLE,
              description="Configurations and metrics that got worse; a single 0 means none.",
              queries=(Query(expr='trainyard_regression{suite=~"$suite", site=~"$site", '
                             'state=~"suspected|confirmed"} == 1 or vector(0)'),)),
        Panel(title="Failed runs by reason, a week", unit="none", kind=Kind.BARS, least=0,
              description="Runs that ended without a valid result in the last seven days.",
              queries=(Query(expr="sum by (reason) (increase(trainyard_runs_ended_total{"
                             "status=~\"failed|lost\", site=~\"$site\"}[7d]))",
                             legend="{{reason}}"),)),
        Panel(title="Runs ever, by end", unit="none", kind=Kind.BARS, least=0,
              description="All stored runs.",
              queries=(Query(expr=f"sum by (status) (trainyard_runs_ended_total{_SITE})",
                             legend="{{status}}"),)),
    ),
)  # fmt: skip

NIGHTLY = Dashboard(
    uid="trainyard-nightly",
    title="Nightly benchmarks",
    description="Did last night work, what did it measure, and is anything slower than it was?",
    since="now-30d",
    refresh="5m",
    variables=(
        Variable(name="suite", label="Suite", metric="trainyard_benchmark_median", key="suite"),
        Variable(name="site", label="Site", metric="trainyard_runs_active", key="site"),
        Variable(name="metric", label="Metric", metric="trainyard_benchmark_median", key="metric",
                 everything=False),
    ),
    rows=(_LAST, _FIGURES, _WORSE),
)  # fmt: skip
