"""Shell functions that the wrappers of containers and of Slurm jobs share. Text only."""

from __future__ import annotations

PUT = r"""
# put FILE: write standard input to FILE in one step; a reader never sees half of it.
put() { cat >"$1.partial" && mv -f "$1.partial" "$1"; }
""".strip()

OUTLIVE = r"""
  child=$!
  wait "$child"
  code=$?
  while kill -0 "$child" 2>/dev/null; do
    wait "$child"
    code=$?
  done
  # A signal can cut short the wait that would have told the code: the shell still knows it.
  wait "$child" 2>/dev/null
  again=$?
  if [ "$again" -ne 127 ]; then code=$again; fi
""".strip("\n")
"""Wait for the command just started in the background, whatever signals arrive; its exit code is
then in ``code``."""
