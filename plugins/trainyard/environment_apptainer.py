"""Would runs start in the site's Apptainer image: what ``verify_environment`` checks of it.

The decisive check starts the image with the options of a run and lets its Python import the
trainer. On a cluster it is made where Slurm's commands run, after the site's modules: nodes may
differ, so what goes wrong there with the program itself is a warning, with the image a failure.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence

from trainyard.apptainer.identity import identify
from trainyard.apptainer.prefix import start_options
from trainyard.apptainer.site import ARCHIVE, ApptainerSite
from trainyard.environment import GIB, Checks, Finding
from trainyard.settings import Settings
from trainyard.sites import Site
from trainyard.slurm.errors import CommandMissingError
from trainyard.slurm.modules import after_modules
from trainyard.slurm.transport import Completed, Transport
from trainyard.store import Verdict

_OLDEST = (1, 1)  # the first with --no-eval
_OLDEST_TORCH = (2, 11)
_START_S = 300.0
_PROBE = (
    "import json, sys, torch, torchvision, trainer; "
    "print(json.dumps({'python': sys.version.split()[0], 'torch': torch.__version__, "
    "'torchvision': torchvision.__version__, 'gloo': torch.distributed.is_gloo_available()}))"
)

_MAGIC, _ARCH = slice(32, 41), slice(45, 47)
"""Places in a SIF header: launch line (32 bytes), magic (10), version (3), architecture (3); from
github.com/apptainer/sif, pkg/sif/sif.go."""
_ARCHITECTURES = {"x86_64": "02", "aarch64": "04", "ppc64le": "06"}
_MACHINES = {code: machine for machine, code in _ARCHITECTURES.items()}

_NAMESPACES = (
    "user namespaces are forbidden here: ask the administrators to allow them "
    "(user.max_user_namespaces, kernel.unprivileged_userns_clone, on Ubuntu 24.04 "
    "kernel.apparmor_restrict_unprivileged_userns) or to install Apptainer's setuid helper "
    "(apptainer-suid), and then leave apptainer.userns out"
)
_FIXES = (
    (r"user namespace|userns|max_user_namespaces", _NAMESPACES),
    (
        r"squashfuse|fuse: |/dev/fuse|loop device",
        "the image cannot be mounted here: see that it was copied completely; without FUSE or "
        "Apptainer's setuid helper no node can: ask the administrators for one of them",
    ),
    (
        r"image format not recognized|not a valid SIF",
        "the file is no image: copy it again, or build it (docs/apptainer.md)",
    ),
    (r"mount source (\S+) doesn't exist", "create that folder, or take it out of apptainer.binds"),
    (
        r"stat \S+: no such file|executable file not found",
        "python of the site is a path in the image: /opt/trainer/bin/python in Trainyard's own",
    ),
    (r"No module named", "build the image with containers/apptainer/trainer.def"),
    (r"exec format error|architecture", "build the image on a machine like the nodes"),
    (r"unknown flag", "install Apptainer 1.1 or newer"),
)
_OTHERWISE = "start it by hand to see all it says: {command}"


def apptainer_checks(site: Site, transport: Transport) -> Checks:
    """Return the checks of the image of *site*, made where *transport* leads.

    ``trainer`` is among them: it takes the place of the check outside the image.
    """
    container = site.apptainer
    if container is None:
        return {}
    there = _There(site, container, transport)

    def program(_settings: Settings, _site: Site) -> Finding:
        return there.program()

    def image(_settings: Settings, _site: Site) -> Finding:
        return there.image()

    def architecture(_settings: Settings, _site: Site) -> Finding:
        return there.architecture()

    def trainer(_settings: Settings, _site: Site) -> Finding:
        return there.trainer()

    return {
        "apptainer": program,
        "apptainer image": image,
        "apptainer architecture": architecture,
        "trainer": trainer,
    }


class _There:
    """Where runs of the site start, or the host nearest to it."""

    def __init__(self, site: Site, container: ApptainerSite, transport: Transport) -> None:
        self.site, self.container, self.transport = site, container, transport
        # A login node is not a node: what fails on it may work in a job.
        self.doubt = Verdict.WARNING if site.slurm else Verdict.FAILED

    def run(self, argv: Sequence[str], timeout: float = 60.0) -> Completed:
        """Run *argv* after the site's modules."""
        return self.transport.run(after_modules(self.site, argv), timeout=timeout)

    def program(self) -> Finding:
        """Check that the program is there, and new enough for the options that runs use."""
        executable = self.container.executable
        needs = "Apptainer 1.1 or newer"
        found, problem = "", "not found"
        try:
            done = self.run([executable, "--version"])
        except CommandMissingError:
            done = None
        if done is not None:
            found = done.stdout.strip()
            problem = found or (done.stderr.strip().splitlines() or ["no answer"])[-1]
        version = re.search(r"(\d+)\.(\d+)", found)
        enough = version is not None and (int(version[1]), int(version[2])) >= _OLDEST
        if enough and done is not None and done.rc == 0:
            return Finding(verdict=Verdict.PASSED, measured=found, requirement=needs)
        return Finding(
            verdict=self.doubt,
            measured=f"{executable}: {problem}",
            requirement=needs,
            fix="install it, set apptainer.executable to its path, or on a cluster name its module "
            "in slurm.modules",
        )

    def image(self) -> Finding:
        """Check that the image can be read, and say which it is."""
        identity = identify(self.container.file, self.transport)
        return Finding(
            verdict=Verdict.PASSED,
            measured=f"{identity.size / GIB:.2f} GiB, {identity.digest}",
            requirement=f"{self.container.file} can be read",
        )

    def architecture(self) -> Finding:
        """Compare the architecture in the image's header with that of the machine."""
        machine = self.run(["uname", "-m"]).stdout.strip()
        needs = f"an image for {machine}"
        if self.container.image.startswith(ARCHIVE):
            return Finding(
                verdict=Verdict.SKIPPED, measured="a Docker archive says nothing", requirement=needs
            )
        shown = self.run(["od", "-An", "-v", "-tx1", "-N64", "--", self.container.file])
        header = bytes.fromhex(shown.stdout)
        if header[_MAGIC] != b"SIF_MAGIC":
            return Finding(
                verdict=Verdict.FAILED,
                measured="no SIF header",
                requirement=needs,
                fix="the file is no image: copy it again, or build it (docs/apptainer.md)",
            )
        code = header[_ARCH].decode(errors="replace")
        fits = _ARCHITECTURES.get(machine, code) == code
        return Finding(
            verdict=Verdict.PASSED if fits else self.doubt,
            measured=f"image for {_MACHINES.get(code, f'architecture {code}')}",
            requirement=needs,
            fix="" if fits else f"build the image on a machine whose `uname -m` is {machine}",
        )

    def trainer(self) -> Finding:
        """Start the image as a run does and let its Python import what a run imports."""
        needs = "the image starts; trainer, torch 2.11 or newer, torchvision, gloo in it"
        command = self._command()
        try:
            done = self.run(command, timeout=_START_S)
        except CommandMissingError:
            return Finding(
                verdict=self.doubt,
                measured=f"{self.container.executable}: not found",
                requirement=needs,
                fix="see the check `apptainer`",
            )
        if done.rc:
            return Finding(
                verdict=self.doubt,
                measured=f"exit code {done.rc}: {_decisive(done.stderr)[-1]}",
                requirement=needs,
                fix=advice(done.stderr) or _OTHERWISE.format(command=shlex.join(command)),
            )
        found = json.loads(done.stdout.splitlines()[-1])
        torch = tuple(int(part) for part in found["torch"].partition("+")[0].split(".")[:2])
        enough = torch >= _OLDEST_TORCH and found["gloo"]
        return Finding(
            verdict=Verdict.PASSED if enough else Verdict.FAILED,
            measured=f"Python {found['python']}, torch {found['torch']}, "
            f"torchvision {found['torchvision']}, gloo {'yes' if found['gloo'] else 'no'}",
            requirement=needs,
            fix="" if enough else "build the image with containers/apptainer/trainer.def",
        )

    def _command(self) -> list[str]:
        return image_command(self.site, self.container, _PROBE)


def image_command(site: Site, container: ApptainerSite, code: str) -> list[str]:
    """Return the command that runs *code* with the image's python, started as for a run."""
    # What the site sets for every run, such as PYTHONPATH, counts for the probe, too.
    given = [word for pair in site.environment for word in ("--env", "=".join(pair))]
    binds = [word for bind in (site.runs_dir, *container.binds) for word in ("--bind", bind)]
    options = (*start_options(container, site.runs_dir), *given, *binds)
    return [container.executable, "exec", *options, container.image, site.python, "-c", code]


def _decisive(text: str) -> list[str]:
    """Return the lines in which Apptainer, or else Python, says why it ended."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    return [line for line in lines if line.startswith(("FATAL", "ERROR"))] or lines[-1:]


def advice(text: str) -> str:
    """Return what to do about what Apptainer said, or nothing when it is none of the known."""
    said = "\n".join(_decisive(text))
    for pattern, fix in _FIXES:
        if re.search(pattern, said, re.IGNORECASE):
            return fix
    return ""
