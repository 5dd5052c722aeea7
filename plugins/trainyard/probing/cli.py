"""``python -m trainyard.probing show | diff | learn | system``: nodes from the command line.

Reports come from the results database (a site, and the beginning of a time or fingerprint) or
from files that ``python -m trainer.probes --out`` wrote.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.contract import ContractError, ProbeReport, loads
from trainyard.errors import ConfigurationError, TrainyardError
from trainyard.files import write_atomically
from trainyard.probing.examine import read_references, references_file
from trainyard.probing.fingerprint import diff, fingerprint
from trainyard.probing.judge import judge
from trainyard.probing.learn import LEAST_REPORTS, learn
from trainyard.probing.picture import topology
from trainyard.probing.references import References, parse_references, render_references
from trainyard.probing.system import scaled, system_page
from trainyard.settings import load_settings
from trainyard.store import open_store
from trainyard.store.probes import find_probe, recent_probes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 after an error that the message explains."""
    chosen = _parser().parse_args(arguments)
    try:
        chosen.run(chosen)
    except (TrainyardError, ContractError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainyard.probing", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    show = commands.add_parser("show", help="the last report, judged")
    show.add_argument("--file", type=Path, help="a report's file instead of the database")
    show.set_defaults(run=_show)
    compare = commands.add_parser("diff", help="what changed between two reports")
    compare.add_argument("before", help="file, or beginning of a time or fingerprint")
    compare.add_argument("after", help="the same")
    compare.set_defaults(run=_diff)
    teach = commands.add_parser("learn", help="references from stored reports, as a file")
    teach.add_argument("--files", type=Path, nargs="+", help="reports' files, not the database")
    teach.add_argument("--least", type=int, default=LEAST_REPORTS, help="valid values needed")
    teach.add_argument("--out", type=Path, help="file to write; default: the site's references")
    teach.set_defaults(run=_learn)
    system = commands.add_parser("system", help="the page of a system, with its picture")
    system.add_argument("--file", type=Path, help="a report's file instead of the database")
    system.add_argument("--about", required=True, help="which machine it is, in a sentence")
    system.add_argument("--out", type=Path, default=Path("docs/system.md"))
    system.set_defaults(run=_system)
    for command in (show, compare, teach, system):
        command.add_argument("--site", default="local", help="site in the database")
    return parser


def _read(path: Path) -> ProbeReport:
    return loads(ProbeReport, path.read_text(), str(path))


def _last(chosen: argparse.Namespace) -> ProbeReport:
    return _read(chosen.file) if chosen.file else _stored(chosen.site, "")


def _stored(site: str, start: str) -> ProbeReport:
    with open_store(load_settings().results_url) as store:
        row = find_probe(store, site, start)
        known = recent_probes(store, site, limit=5)
    if row is None:
        times = ", ".join(one.report.started_at for one in known) or "none; run verify_environment"
        raise ConfigurationError(f"no report of site {site!r} begins with {start!r}; last: {times}")
    return row.report


def _show(chosen: argparse.Namespace) -> None:
    report = _last(chosen)
    references = References(site=chosen.site)
    if not chosen.file:
        references = read_references(load_settings(), chosen.site)
    today = dt.datetime.now(dt.UTC).date()
    head = f"{report.node}, {report.started_at}, {report.seconds:.1f} s"
    lines = [f"{head}, fingerprint {fingerprint(report)}"]
    for one in judge(report, references, today):
        value = scaled(one.measurement.value, one.measurement.unit)
        lines.append(f"{one.measurement.name:36} {value:>14}  {one.verdict}: {one.why} {one.fix}")
    lines += [f"{problem.probe}: {problem.what} -> {problem.fix}" for problem in report.problems]
    lines += [f"{fact.name:36} {fact.value} {fact.unit}".rstrip() for fact in report.facts]
    sys.stdout.write("\n".join(lines) + "\n")


def _diff(chosen: argparse.Namespace) -> None:
    before, after = (
        _read(Path(text)) if text.endswith(".json") else _stored(chosen.site, text)
        for text in (chosen.before, chosen.after)
    )
    changes = [str(change) for change in diff(before, after)]
    sys.stdout.write("\n".join(changes or ["nothing changed"]) + "\n")


def _learn(chosen: argparse.Namespace) -> None:
    if chosen.files:
        reports = [_read(path) for path in chosen.files]
        if chosen.out is None:
            raise ConfigurationError("--files needs --out: where to write the references")
        known = References(site=chosen.site)
        if chosen.out.exists():
            known = parse_references(chosen.out.read_text(), str(chosen.out))
        path = chosen.out
    else:
        settings = load_settings()
        with open_store(settings.results_url) as store:
            reports = [row.report for row in recent_probes(store, chosen.site)]
        known = read_references(settings, chosen.site)
        path = chosen.out or references_file(settings, chosen.site)
    made = learn(reports, known, least=chosen.least)
    days = sorted(report.started_at[:10] for report in reports)
    comments = [f"Learned from {len(reports)} reports, {days[0]} to {days[-1]}. Review, commit."]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render_references(made, comments))
    sys.stdout.write(f"{path}: {len(made.references)} references; review and commit it\n")


def _system(chosen: argparse.Namespace) -> None:
    report = _last(chosen)
    picture = chosen.out.parent / "images" / f"{chosen.out.stem}.svg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(picture, topology(report))
    page = system_page([report], about=chosen.about, picture=f"images/{picture.name}")
    write_atomically(chosen.out, page)
    sys.stdout.write(f"{chosen.out}, {picture}\n")
