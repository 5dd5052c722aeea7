"""Commands on a login node as jobs would have them: after the site's modules. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from trainyard.sites import Site


def after_modules(site: Site, argv: Sequence[str]) -> list[str]:
    """Return the command that executes *argv* once the modules of *site* are loaded."""
    modules = site.slurm.modules if site.slurm else ()
    if not modules:
        return list(argv)
    load = "type module >/dev/null 2>&1 || . /etc/profile; "
    load += "".join(f"module load {shlex.quote(module)} && " for module in modules)
    return ["bash", "-c", f'{load}exec "$0" "$@"', *argv]
