"""The script that every container of a run executes, as a pure function."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from trainyard.paths import RunPaths
from trainyard.shelltext import OUTLIVE, PUT

ALREADY = 75
"""Exit code of a container that finds its run begun (sysexits.h, EX_TEMPFAIL)."""
FOLDER = 72
"""Exit code of a container that does not see its run folder, or may not write there."""

_FUNCTIONS = (
    r"""
signal=""
child=""
"""
    + PUT
    + r"""
# used: CPU time and memory of this container, by its control group (version 2, else 1).
used() {
  group=/sys/fs/cgroup
  if [ -r "$group/cgroup.controllers" ]; then
    while read -r name value; do
      if [ "$name" = usage_usec ]; then echo "cpu_ns ${value}000"; fi
    done <"$group/cpu.stat"
    if [ -r "$group/memory.peak" ]; then echo "peak_bytes $(<"$group/memory.peak")"; fi
  else
    echo "cpu_ns $(<"$group/cpuacct/cpuacct.usage")"
    echo "peak_bytes $(<"$group/memory/memory.max_usage_in_bytes")"
  fi 2>/dev/null
}
# told: somebody stops the container; the trainer is told, too, and may still leave its result.
told() {
  signal=15
  echo "$signal" | put "$me/signal"
  if [ -n "$child" ]; then kill -s TERM "$child" 2>/dev/null; fi
}
# run COMMAND: run it, outlive the signals it gets, keep its exit code.
run() {
  "$@" >"$out" 2>"$err" &
"""
    + OUTLIVE
    + r"""
  used | put "$me/usage"
  echo "$code" | put "$exit_code"
  exit "$code"
}
"""
).strip()


def script(argv: Sequence[str], paths: RunPaths) -> str:
    """Return the text of launch.sh; its only argument is the number of its container.

    The first container writes the run's stdout.log, stderr.log and exit_code, each further one its
    own below ``containers/``. A container that is started a second time runs nothing.
    """
    quote = shlex.quote
    return (
        "#!/bin/bash\n"
        f"# run {paths.run_id}\n"
        f"cd {quote(str(paths.run_dir))} || exit {FOLDER}\n"
        f"{_FUNCTIONS}\n"
        'me="containers/$1"\n'
        f'if [ -e "$me" ]; then echo "this run was begun before" >&2; exit {ALREADY}; fi\n'
        f'mkdir "$me" || exit {FOLDER}\n'
        "trap told TERM\n"
        'out="$me/stdout.log" err="$me/stderr.log" exit_code="$me/exit_code"\n'
        'if [ "$1" = 0 ]; then out=stdout.log err=stderr.log exit_code=exit_code; fi\n'
        'echo "output: $PWD/$out, $PWD/$err"\n'
        f"run {shlex.join(argv)}\n"
    )
