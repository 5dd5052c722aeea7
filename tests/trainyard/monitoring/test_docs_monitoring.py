"""docs/monitoring.md: its table of metrics is the exporter's catalogue and the StatsD mapping."""

from __future__ import annotations

import os
import re
import subprocess

import yaml

from tests.fakes.statsd_exporter import MAPPING
from tests.fixtures.prometheus import ALERTMANAGER, ROOT, program
from tests.goldens import ACCEPT
from trainyard.dashboards.render import DASHBOARDS
from trainyard.exporter.__main__ import PORT, parse
from trainyard.exporter.catalogue import CATALOGUE, CONFIG, RUN
from trainyard.exporter.reasons import REASONS
from trainyard.exporter.results import HISTORY_DAYS
from trainyard.exporter.runs import Limits

PAGE = ROOT / "docs" / "monitoring.md"
BEGIN, END = "<!-- metrics", "<!-- end -->"


def table():
    lines = ["| metric | type | further labels | says |", "|---|---|---|---|"]
    for metric in CATALOGUE.values():
        shared = CONFIG if metric.labels[:5] == CONFIG else RUN if metric.labels[:5] == RUN else ()
        labels = ", ".join(f"`{label}`" for label in metric.labels[len(shared) :])
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    told = {}
    for one in yaml.safe_load(MAPPING.read_text())["mappings"]:
        if "help" in one:
            told.setdefault(one["name"], (one["help"], set()))[1].update(one.get("labels", {}))
    for name, (text, labels) in told.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        kind = "histogram" if name.endswith("_seconds") else kind
        lines.append(f"| `{name}` | {kind} | {', '.join(f'`{x}`' for x in labels)} | {text}. |")
    return "\n".join(lines) + "\n"


def test_the_table_of_metrics_is_true():
    text = PAGE.read_text()
    head, rest = text.split(BEGIN)
    line, body = rest.split("\n", 1)
    old, tail = body.split(END)
    if os.environ.get(ACCEPT) == "1":
        PAGE.write_text(f"{head}{BEGIN}{line}\n{table()}{END}{tail}")
    else:
        assert old == table()


def test_numbers_in_the_text_are_those_of_the_code():
    text = PAGE.read_text()
    options, limits = parse([]), Limits()
    assert f"exporter, port {PORT}" in text
    assert f"--port {options.port}] [--max-runs {limits.most}] [--keep {limits.keep_s:.0f}]" in text
    assert f"at most {HISTORY_DAYS} days back" in text
    for reason in REASONS:
        assert reason == "oom" or f"`{reason}`" in text, reason


def test_every_dashboard_is_described_by_its_own_words():
    text = PAGE.read_text()
    for board in DASHBOARDS:
        assert f"| {board.title} | {board.description} |" in text


def test_the_receivers_shown_are_accepted_by_alertmanager(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    config = yaml.safe_load(ALERTMANAGER.read_text())
    config["receivers"] += yaml.safe_load(example)["receivers"]
    config["route"]["receiver"] = "team"
    if amtool_version() < (0, 26):  # the first that reads a webhook's address from a file
        del config["receivers"][-1]["webhook_configs"]
    path = tmp_path / "alertmanager.yml"
    path.write_text(yaml.safe_dump(config))
    done = amtool("check-config", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 receivers" in done.stdout


def amtool(*argv):
    return subprocess.run([program("amtool"), *argv], capture_output=True, text=True, check=False)


def amtool_version():
    done = amtool("--version")
    major, minor = re.search(r"version (\d+)\.(\d+)", done.stdout + done.stderr).groups()
    return int(major), int(minor)
