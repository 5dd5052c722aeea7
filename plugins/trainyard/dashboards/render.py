"""From records to the JSON that Grafana reads, through Grafana's own builders. Pure."""

from __future__ import annotations

import itertools
import json
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as board
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from trainyard.dashboards.cluster import CLUSTER
from trainyard.dashboards.model import Dashboard, Kind, Panel, Query, Variable
from trainyard.dashboards.nightly import NIGHTLY
from trainyard.dashboards.pipelines import PIPELINES
from trainyard.dashboards.training import TRAINING

DASHBOARDS = (TRAINING, CLUSTER, NIGHTLY, PIPELINES)
SOURCE_UID = "trainyard-prometheus"
"""The data source of containers/grafana/provisioning/datasources."""
_SOURCE = model.DataSourceRef(type_val="prometheus", uid=SOURCE_UID)
_BUILDERS: dict[Kind, Any] = {
    Kind.LINES: timeseries.Panel,
    Kind.STAT: stat.Panel,
    Kind.BARS: bargauge.Panel,
    Kind.TABLE: table.Panel,
}
_LOW, _HIGH = 4, 8
_MOST_COLUMNS = 24


def text_of(dashboard: Dashboard) -> str:
    """Return the file's text: JSON with sorted keys and a newline at its end."""
    made = _dashboard(dashboard).build()
    plain = json.loads(JSONEncoder().encode(made))
    for variable in plain["templating"]["list"]:
        for name in (
            "auto",
            "auto_min",
            "auto_count",
        ):  # of interval variables; Grafana 13 has none
            variable.pop(name, None)
    return json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _dashboard(dashboard: Dashboard) -> board.Dashboard:
    made = (
        board.Dashboard(dashboard.title)
        .uid(dashboard.uid)
        .description(dashboard.description)
        .tags(["trainyard"])
        .time(dashboard.since, "now")
        .refresh(dashboard.refresh)
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(_siblings())
    )
    for variable in dashboard.variables:
        made = made.with_variable(_variable(variable))
    number = itertools.count(1)
    for row in dashboard.rows:
        made = made.with_row(board.Row(row.title).id(next(number)))
        for panel in row.panels:
            made = made.with_panel(_panel(panel).id(next(number)))
    return made


def _siblings() -> board.DashboardLink:
    link = board.DashboardLink("Trainyard").type(model.DashboardLinkType.DASHBOARDS)
    return link.tags(["trainyard"]).as_dropdown(True).keep_time(True)


def _variable(variable: Variable) -> board.QueryVariable:
    made = (
        board.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(_SOURCE)
        .query(f"label_values({variable.metric}, {variable.key})")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
    )
    if not variable.everything:
        return made
    everything = model.VariableOption(selected=True, text="All", value="$__all")
    return made.multi(True).include_all(True).all_value(".*").current(everything)


def _panel(panel: Panel) -> Any:
    """Return the builder of *panel*; the builders share their methods and no base class."""
    made: Any = _BUILDERS[panel.kind]()
    about = f" Needs {panel.needs.value}." if panel.needs else ""
    made = (
        made.title(panel.title)
        .description(panel.description + about)
        .datasource(_SOURCE)
        .unit(panel.unit)
        .span(min(panel.width, _MOST_COLUMNS))
        .height(_LOW if panel.kind is Kind.STAT else _HIGH)
        .thresholds(_thresholds(panel))
    )
    if panel.least is not None:
        made = made.min(panel.least)
    if panel.most is not None:
        made = made.max(panel.most)
    for place, query in enumerate(panel.queries):
        made = made.with_target(_target(query, panel.kind, chr(ord("A") + place)))
    return _styled(made, panel)


def _styled(made: Any, panel: Panel) -> Any:
    if panel.kind is Kind.LINES:
        style = common.GraphThresholdsStyleConfig()
        lines = panel.warn is not None or panel.bad is not None
        mode = shapes.GraphThresholdsStyleMode
        return made.fill_opacity(8).thresholds_style(
            style.mode(mode.DASHED if lines else mode.OFF)
        )  # fmt: skip
    if panel.kind is Kind.BARS:
        return made.orientation(shapes.VizOrientation.HORIZONTAL)
    return made


def _thresholds(panel: Panel) -> board.ThresholdsConfig:
    """Return green, yellow from *warn* and red from *bad*, or the other way round."""
    config = board.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE)
    return config.steps([model.Threshold(value=at, color=colour) for at, colour in steps(panel)])


def steps(panel: Panel) -> list[tuple[float | None, str]]:
    """Return where each colour of *panel* begins; the first has no beginning."""
    warn, bad = panel.warn, panel.bad
    if warn is not None and bad is not None and bad < warn:
        if bad == 0 and warn == 1:  # two values: it is well or it is not
            return [(None, "red"), (1, "green")]
        return [(None, "red"), (bad, "yellow"), (warn, "green")]
    found: list[tuple[float | None, str]] = [(None, "green")]
    found += [(warn, "yellow")] if warn is not None else []
    found += [(bad, "red")] if bad is not None else []
    return found


def _target(query: Query, kind: Kind, ref: str) -> Dataquery:
    made = Dataquery().expr(query.expr).ref_id(ref).datasource(_SOURCE)
    if query.legend:
        made = made.legend_format(query.legend)
    if kind is Kind.LINES:
        return made.range()
    if kind is Kind.TABLE:
        made = made.format(PromQueryFormat.TABLE)
    return made.instant()
