"""Jobs of a real cluster that train in a real image: torchrun per node, and MPI per rank.

slurmd and the jobs run as root, as everywhere in these tests; the image's processes run as an
ordinary user, but for MPI (tests/fixtures/apptainer.py).
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.apptainer import AS_CALLER
from tests.requirements import need
from tests.trainyard.apptainer.test_apptainer_runs import spec_of
from trainer.contract import RunResult, RunSpec, dumps, loads
from trainyard.apptainer.site import Mpi
from trainyard.launch import launch
from trainyard.paths import RunPaths
from trainyard.sites import Launcher, Site
from trainyard.slurm.site import Rendezvous, SlurmSite

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("open_umask")]

OVER = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")


def site_of(apptainer: Any, name: str, **container: Any) -> Site:
    return apptainer.site(
        name, launcher=Launcher.SLURM, cores=4, largest_ranks=8, apptainer=container,
        slurm=SlurmSite(partition="main", rendezvous=Rendezvous.NODEADDR),
    )  # fmt: skip


def run(cluster: Any, spec: RunSpec, site: Site) -> RunPaths:
    """Submit the rendered script with sbatch and wait for the job's end."""
    paths = RunPaths(root=Path(site.runs_dir), run_id="run")
    paths.run_dir.mkdir(parents=True)
    paths.spec.write_text(dumps(spec))
    paths.script.write_text(launch(spec, site, paths).script)
    job = cluster.ask("sbatch", "--parsable", str(paths.script))
    deadline = time.monotonic() + 180
    while not (state := state_of(cluster, job)).startswith(OVER):
        assert time.monotonic() < deadline, f"{state}: {paths.stderr.read_text()[-3000:]}"
        time.sleep(0.2)
    return paths


def state_of(cluster: Any, job: str) -> str:
    words = cluster.ask("scontrol", "--oneliner", "show", "job", job).split()
    return next(word.partition("=")[2] for word in words if word.startswith("JobState="))


@pytest.mark.parametrize(("nodes", "mpi"), [(2, Mpi.NONE), (1, Mpi.HYBRID)])
def test_two_ranks_train_in_the_image(slurm_cluster, apptainer, nodes, mpi):
    if mpi is Mpi.HYBRID:
        need_pmix()
    spec = spec_of(name="two", distributed=True, ranks=2, nodes=nodes, global_batch=16)
    site = site_of(apptainer, f"train-{mpi}", mpi=mpi)
    paths = run(slurm_cluster, spec, site)
    assert paths.exit_code.read_text() == "0\n", paths.stderr.read_text()[-3000:]
    result = loads(RunResult, paths.result.read_text())
    assert result.sane
    assert result.provenance.image == site.apptainer.identity.digest
    assert result.provenance.job_id
    assert len(result.machines) == nodes


def test_the_images_mpi_and_slurm_speak_with_each_other(slurm_cluster, apptainer):
    """The hybrid model: every rank in a container of its own, and one MPI job of them all.

    On one node: two slurmd on one host make their PMIx servers' folders under the same name.
    """
    need_pmix()
    check = stand_in(apptainer, "exec /usr/bin/python3 /opt/trainyard/mpi_check.py")
    site = dataclasses.replace(
        site_of(apptainer, "mpi", mpi=Mpi.HYBRID),
        python=check,
        # PMIx serves the job's own user alone, here root.
        environment=((AS_CALLER, "1"),),
    )
    spec = spec_of(name="four", distributed=True, ranks=4, global_batch=32)
    paths = run(slurm_cluster, spec, site)
    assert paths.exit_code.read_text() == "0\n", paths.stderr.read_text()[-3000:]
    assert paths.stdout.read_text().startswith("ranks 4, sum 6, library Open MPI v4")


def test_the_hosts_mpi_is_bound_into_the_image(slurm_cluster, apptainer):
    """What the bind model puts into the environment; no MPI lies in the folder."""
    folder = apptainer.folder / "host-mpi"
    folder.mkdir()
    show = stand_in(apptainer, f'ls -d {folder} && echo "$LD_LIBRARY_PATH" && echo "$PATH"')
    container = {"mpi": Mpi.BIND, "mpi_dir": str(folder), "mpi_type": "none"}
    site = dataclasses.replace(site_of(apptainer, "bind", **container), python=show)
    paths = run(slurm_cluster, spec_of(), site)
    assert paths.exit_code.read_text() == "0\n", paths.stderr.read_text()[-3000:]
    seen, libraries, programs = paths.stdout.read_text().splitlines()
    assert seen == str(folder)
    assert libraries.split(":")[0] == f"{folder}/lib"
    assert programs.split(":")[0] == f"{folder}/bin"


def test_ranks_get_their_places_from_slurm(slurm_cluster, apptainer):
    show = stand_in(
        apptainer, 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR"; exit 0'
    )
    container = {"mpi": Mpi.HYBRID, "mpi_type": "none"}
    site = dataclasses.replace(site_of(apptainer, "places", **container), python=show)
    spec = spec_of(name="four", distributed=True, ranks=4, nodes=2, global_batch=32)
    paths = run(slurm_cluster, spec, site)
    assert paths.exit_code.read_text() == "0\n", paths.stderr.read_text()[-3000:]
    places = sorted(paths.stdout.read_text().splitlines())
    assert [place.rpartition(" ")[0] for place in places] == [
        "0 0 4 2", "1 1 4 2", "2 0 4 2", "3 1 4 2",
    ]  # fmt: skip
    assert {place.rpartition(" ")[2] for place in places} == {"127.0.0.1"}


def test_exit_codes_pass_through_srun(slurm_cluster, apptainer):
    site = dataclasses.replace(
        site_of(apptainer, "code"), python=stand_in(apptainer, "kill -KILL $$")
    )
    assert run(slurm_cluster, spec_of(), site).exit_code.read_text() == "137\n"


def need_pmix() -> None:
    """Debian's Slurm loads PMIx by the name that only its development package has."""
    need(
        list(Path("/usr/lib").glob("*/pmix2/lib/libpmix.so")), "PMIx (apt-get install libpmix-dev)"
    )


def stand_in(apptainer: Any, body: str) -> str:
    """Return a program, seen in the container, that plays the image's Python."""
    file = apptainer.folder / f"stand-in-{abs(hash(body))}"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return str(file)
