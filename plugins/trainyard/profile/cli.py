"""``python -m trainyard.profile analyse | compare | export``: profiles from the command line."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainyard.errors import ProfileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.contract import RunSpec
    from trainyard.profile.controls import Controls
    from trainyard.profile.result import ProfileAnalysis

FILES_HELP = "nsys SQLite exports or torch.profiler traces (.json, .json.gz), one per rank"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 after an error that the message explains."""
    chosen = _parser().parse_args(arguments)
    try:
        chosen.run(chosen)
    except (ProfileError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a command line talks by printing
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainyard.profile", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    analyse = commands.add_parser("analyse", help="where the time of a step goes, and why")
    _add_files(analyse)
    analyse.add_argument("--out", type=Path, help="folder for report, timeline and tables")
    analyse.add_argument("--title", default="Profile of a training step")
    analyse.add_argument("--json", action="store_true", help="print every number as JSON")
    analyse.set_defaults(run=_analyse)
    compare = commands.add_parser("compare", help="what changed between two profiles")
    compare.add_argument("--before", type=Path, nargs="+", required=True, metavar="FILE")
    compare.add_argument("--after", type=Path, nargs="+", required=True, metavar="FILE")
    compare.add_argument("--out", type=Path, help="folder for the report")
    compare.add_argument("--json", action="store_true", help="print every number as JSON")
    compare.set_defaults(run=_compare)
    export = commands.add_parser("export", help="one trace for Perfetto, all ranks in it")
    _add_files(export)
    export.add_argument("--out", type=Path, required=True, help="file to write, .json.gz")
    export.add_argument("--steps", type=int, help="the first so many steps alone")
    export.set_defaults(run=_export)
    return parser


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help=FILES_HELP)
    parser.add_argument("--ncu", type=Path, help="Nsight Compute's --csv --page raw")
    parser.add_argument(
        "--result", type=Path, help="result.json of an unprofiled run with controls"
    )
    parser.add_argument("--spec", type=Path, help="spec.json of the run, for what to try next")


def load(
    files: Sequence[Path],
    *,
    ncu: Path | None = None,
    result: Path | None = None,
    spec: Path | None = None,
) -> ProfileAnalysis:
    """Read and analyse *files*; raises ``ProfileError`` naming the file and what to do."""
    from trainyard.profile.analysis import analyse
    from trainyard.profile.readers import read_trace
    from trainyard.profile.readers.ncu import read_ncu

    return analyse(
        read_trace(files),
        counters=read_ncu(ncu) if ncu else None,
        controls=_controls(result) if result else None,
        spec=_spec(spec) if spec else None,
    )


def _controls(path: Path) -> Controls:
    from trainer.contract import ContractError, RunResult, loads
    from trainyard.profile.controls import controls_of

    try:
        found = loads(RunResult, path.read_text(), str(path))
    except (OSError, ValueError, ContractError) as error:
        raise ProfileError(f"{path} is no result.json of a run: {error}") from error
    controls = controls_of({metric.name: metric.value for metric in found.metrics})
    if controls is None:
        raise ProfileError(
            f"{path} holds no control: run it with controls = synthetic_input, no_sync, or leave "
            "--result out"
        )
    return controls


def _spec(path: Path) -> RunSpec:
    from trainer.contract import ContractError, RunSpec, loads

    try:
        return loads(RunSpec, path.read_text(), str(path))
    except (OSError, ValueError, ContractError) as error:
        raise ProfileError(f"{path} is no spec.json of a run: {error}") from error


def _analyse(chosen: argparse.Namespace) -> None:
    from trainyard.profile.report import build
    from trainyard.profile.report.build import numbers_of
    from trainyard.report.exports import json_text

    found = load(chosen.files, ncu=chosen.ncu, result=chosen.result, spec=chosen.spec)
    if chosen.out:
        made = build(found, chosen.out, title=chosen.title)
        _say(f"report: {made.html}\ntimeline: {made.timeline}\nfor Perfetto: {made.trace}\n")
    if chosen.json:
        _say(json_text(numbers_of(found)))
        return
    _say("\n".join(summary_lines(found)))


def summary_lines(found: ProfileAnalysis) -> list[str]:
    """Return the verdict as lines of text."""
    verdict = found.verdict
    lines = [verdict.headline, ""]
    lines += [f"  ! {item.text}" for item in verdict.findings if item.raised]
    lines += [
        f"  {item.ms.value:8.3f} ms per step recoverable: {item.name} ({item.how})"
        for item in verdict.recoverable
    ]
    lines += [
        f"  try {item.field} = {item.proposed}: {item.why}"
        for item in verdict.suggestions
        if item.field
    ]
    lines += [f"  note: {note.text}" for note in found.notes]
    return lines


def _compare(chosen: argparse.Namespace) -> None:
    from trainyard.profile.compare import compare
    from trainyard.profile.report import build_comparison
    from trainyard.report.exports import json_text

    before, after = load(chosen.before), load(chosen.after)
    found = compare(before, after)
    if chosen.out:
        _say(f"report: {build_comparison(found, before, after, chosen.out).html}\n")
    if chosen.json:
        _say(json_text(found))
        return
    lines = [f"step: {found.step.before_ms:.3f} ms before, {found.step.after_ms:.3f} ms after"]
    for item in [*found.parts, *found.kernels[:10]]:
        mark = " " if item.resolved else "~"
        lines.append(f"  {mark} {item.lost.value:+9.3f} ms  {item.kind:10} {item.name[:80]}")
    _say("\n".join([*lines, "  ~: cannot be told from no change"]))


def _export(chosen: argparse.Namespace) -> None:
    from trainyard.profile.report.export import write_perfetto

    if chosen.out.suffix != ".gz":
        raise ProfileError(f"{chosen.out}: the export is gzipped, name it .json.gz")
    found = load(chosen.files, ncu=chosen.ncu, result=chosen.result, spec=chosen.spec)
    count = write_perfetto(found, chosen.out, steps=chosen.steps)
    _say(json.dumps({"file": str(chosen.out), "events": count}))


def _say(text: Any) -> None:
    print(text)  # noqa: T201 - a command line talks by printing
