"""Asking the site's python about profilers: on the host, in its container, on its login node."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainyard.errors import UnavailableError
from trainyard.hooks.slurm import transport_of
from trainyard.sites import Site
from trainyard.slurm.modules import after_modules

if TYPE_CHECKING:
    from trainyard.environment_profilers import Look

_PATIENCE_S = 60.0


def python_of(site: Site) -> Look:
    """Return what runs code with the python of *site*, where its runs happen.

    It raises ``UnavailableError`` with the last words when the code fails there.
    """
    if site.docker is not None:
        from trainyard.environment_docker import container_answer
        from trainyard.hooks.docker import engine_of

        engine = engine_of(site)
        return lambda code: container_answer(site, engine, code)

    def ask(code: str) -> Mapping[str, object]:
        command = [site.python, "-c", code]
        if site.apptainer is not None:
            from trainyard.environment_apptainer import image_command

            command = image_command(site, site.apptainer, code)
        done = transport_of(site).run(after_modules(site, command), timeout=_PATIENCE_S)
        if done.rc:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UnavailableError(
                f"{site.python} of site {site.name!r} ended with {done.rc}: {last}; see the check "
                "`trainer`"
            )
        answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        return answer

    return ask
