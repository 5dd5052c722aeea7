"""What stands before a run's command when it happens in an Apptainer image. Pure, golden-tested.

One renderer for every launcher: the process launcher puts the prefix before torchrun on its host,
Slurm before torchrun on each node, or before each rank where srun starts them all.

Apptainer hands ``APPTAINERENV_X`` into the container as ``X`` also when it clears everything else.
Without ``--no-eval`` it would run the values through a shell first: ``$(…)`` in a value would be
executed (tried on 1.4.5).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from trainer.contract import RunSpec
from trainyard.apptainer.site import ApptainerSite, GpuLibraries, Home, ImageIdentity
from trainyard.errors import ConfigurationError
from trainyard.paths import RunPaths
from trainyard.sites import Launcher, Site
from trainyard.slurm.directives import starts_ranks, wants_gpus

CHANGED = 78
"""Exit code of a run whose image is gone or another one (EX_CONFIG of sysexits.h)."""
DIGEST = "TRAINYARD_IMAGE_DIGEST"
"""Variable from which provenance takes the image's digest."""

_ALWAYS = ("TRAINYARD_*", "NCCL_*", "GLOO_*")
_GPUS = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
_SLURM = ("SLURM_*",)
# PMI, PMI2 and PMIx; then what Open MPI, its runtime, MPICH, UCX and libfabric are tuned by.
_MPI = ("PMI*", "OMPI_*", "PRTE_*", "MPICH_*", "UCX_*", "FI_*")
_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(kw_only=True, slots=True, frozen=True)
class Prefix:
    """What comes before a command; empty for a site without an image."""

    prepare: str = ""
    """Shell text for whoever starts the container: is it the image, and what goes into it."""
    argv: tuple[str, ...] = ()
    """The container's program and options, image included."""

    def around(self, words: Iterable[str]) -> tuple[str, ...]:
        """Return the command *words* with this prefix."""
        if not self.argv:
            return tuple(words)
        return self.around_text(shlex.join(words))

    def around_text(self, text: str) -> tuple[str, ...]:
        """Return the command that shell *text* writes with this prefix; a shell expands *text*."""
        container = f"{shlex.join(self.argv)} " if self.argv else ""
        return ("bash", "-c", f"{self.prepare}exec {container}{text}")


NO_PREFIX = Prefix()


def prefix(spec: RunSpec, site: Site, paths: RunPaths, env: Iterable[str]) -> Prefix:
    """Return the prefix of a run; *env* names the variables that ``launch`` sets for it.

    Raises ``ConfigurationError`` when nobody has found out yet which image it is: a result must
    say what ran.
    """
    container = site.apptainer
    if container is None:
        return NO_PREFIX
    identity = identity_of(site)
    lines = [_same_image(container, identity)]
    if starts_ranks(spec, site):
        lines.append(_place(spec))
    lines += [_pass(spec, site, container, env), *_fixed(container)]
    return Prefix(
        prepare="".join(f"{line}\n" for line in lines),
        argv=(
            container.executable,
            "exec",
            *start_options(container, str(paths.run_dir)),
            *_gpu_option(spec, site, container),
            *_binds(spec, site, container),
            container.image,
        ),
    )


def identity_of(site: Site) -> ImageIdentity:
    """Return which image the site's runs happen in; raise when it is not known."""
    if site.apptainer is None or site.apptainer.identity is None:
        image = site.apptainer.image if site.apptainer else ""
        raise ConfigurationError(
            f"site {site.name!r}: it is not known which image {image!r} is, so no result could say "
            "what ran; pass the site through trainyard.apptainer.identity.identified() first, as "
            "planning a study does"
        )
    return site.apptainer.identity


def start_options(container: ApptainerSite, run_dir: str) -> tuple[str, ...]:
    """Return the options that decide how a container starts, whatever runs in it."""
    chosen = {
        "--cleanenv": container.clean_environment,
        "--userns": container.userns,
        "--no-home": container.home is Home.NONE,
    }
    home = ("--home", run_dir) if container.home is Home.RUN else ()
    return ("--no-eval", *(option for option, wanted in chosen.items() if wanted), *home)


def _gpu_option(spec: RunSpec, site: Site, container: ApptainerSite) -> tuple[str, ...]:
    libraries = container.gpu_libraries
    wanted = wants_gpus(spec, site) and libraries is not GpuLibraries.NONE
    return (f"--{libraries}",) if wanted else ()


def _binds(spec: RunSpec, site: Site, container: ApptainerSite) -> tuple[str, ...]:
    # A folder that does not exist ends the start: without data, none is named.
    data = (site.data_dir, site.cache_dir) if spec.dataset_digest else ()
    own = (container.scratch, container.mpi_dir)
    wanted = dict.fromkeys((site.runs_dir, *data, *own, *container.binds))
    return tuple(word for bind in wanted if bind for word in ("--bind", bind))


def _same_image(container: ApptainerSite, identity: ImageIdentity) -> str:
    """Return a test on the machine that starts the container: is it the image of the digest?

    Size and whole seconds: file systems differ in what they keep of the rest, and a copy on each
    node has an inode of its own.
    """
    file = shlex.quote(container.file)
    expected = f"{identity.size} {identity.mtime.partition('.')[0]}"
    told = shlex.quote(
        f"{container.file} is missing or is not the image that was planned ({identity.digest}): "
        "plan the study again"
    )
    return (
        f'[ "$(stat -Lc "%s %Y" -- {file})" = "{expected}" ] || '
        f"{{ echo {told} >&2; exit {CHANGED}; }}"
    )


def _place(spec: RunSpec) -> str:
    """Return what tells a rank its place in torchrun's words, from those of Slurm."""
    return (
        'export RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID"'
        f" WORLD_SIZE={spec.ranks} LOCAL_WORLD_SIZE={spec.ranks_per_node}"
        ' MASTER_ADDR="${TRAINYARD_RENDEZVOUS%:*}" MASTER_PORT="${TRAINYARD_RENDEZVOUS##*:}"'
    )


def _pass(spec: RunSpec, site: Site, container: ApptainerSite, env: Iterable[str]) -> str:
    patterns = [*sorted(env), *_ALWAYS, *container.pass_environment]
    if site.launcher is Launcher.SLURM:
        patterns += _SLURM
    if wants_gpus(spec, site):
        patterns += _GPUS
    if container.starts_ranks:
        patterns += _MPI
    if starts_ranks(spec, site):
        patterns += _RANK
    names = " ".join(dict.fromkeys(_names(pattern) for pattern in patterns))
    return (
        f"for name in {names}; do\n"
        f'  [ -z "${{!name+set}}" ] || export "{_variable(container)}_$name=${{!name}}"\n'
        "done"
    )


def _names(pattern: str) -> str:
    """Return *pattern* as bash writes it: a name, or all names that begin so."""
    return f"${{!{pattern[:-1]}@}}" if pattern.endswith("*") else pattern


def _fixed(container: ApptainerSite) -> list[str]:
    """Return the variables that the container alone gets."""
    values = {"TMPDIR": container.scratch}
    if container.mpi_dir:
        values["LD_LIBRARY_PATH"] = f"{container.mpi_dir}/lib"
        values["PREPEND_PATH"] = f"{container.mpi_dir}/bin"
    return [
        f"export {_variable(container)}_{name}={shlex.quote(value)}"
        for name, value in values.items()
        if value
    ]


def _variable(container: ApptainerSite) -> str:
    called = PurePosixPath(container.executable).name
    return "SINGULARITYENV" if called.startswith("singularity") else "APPTAINERENV"


def image_environment(site: Site) -> dict[str, str]:
    """Return the variable that names the image to provenance; empty for a site without one."""
    return {} if site.apptainer is None else {DIGEST: identity_of(site).digest}
