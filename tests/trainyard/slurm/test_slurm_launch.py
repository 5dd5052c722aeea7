"""Rendered sbatch scripts against golden files, and what must never be rendered."""

from __future__ import annotations

import dataclasses
import difflib
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.contract import Dataset, Device, Profiler, RunSpec, Scaling
from trainyard.apptainer.site import ApptainerSite, ImageIdentity, Mpi
from trainyard.errors import ConfigurationError
from trainyard.launch import launch, launch_array
from trainyard.paths import RunPaths
from trainyard.sites import Launcher, Site, parse_sites
from trainyard.slurm.directives import directive
from trainyard.slurm.options import After, Dependency, JobOptions
from trainyard.slurm.site import GpuOption, Rendezvous, SlurmSite, Tier

GOLDEN = Path(__file__).parents[2] / "golden" / "slurm-launch"
ACCEPT = "TRAINYARD_ACCEPT=1 pytest tests/trainyard/slurm/test_slurm_launch.py"
PATHS = RunPaths(root=Path("/shared/runs"), run_id="nightly.run-0a1b2c3d")

IMAGE = ImageIdentity(sha256="0a" * 32, size=4823, mtime="1763789000.250000000", inode=77)

BARE = Site(
    name="bare", launcher=Launcher.SLURM, python="/opt/trainer/bin/python", runs_dir="/shared/runs",
    data_dir="/shared/data", cores=16, largest_ranks=64, slurm=SlurmSite(),
)  # fmt: skip
FULL = dataclasses.replace(
    BARE,
    name="full",
    cores=128,
    gpus_per_node=4,
    network_interface="ib0",
    environment=(("NCCL_DEBUG", "WARN"),),
    run_timeout_s=5400,
    slurm=SlurmSite(
        partition="gpu,gpu-long", account="proj-17", qos="normal", constraint="a100&nvlink",
        gpu_type="a100", memory_mb=256000, exclusive=True, exclude_nodes=("gpu007",),
        modules=("cuda/12.4", "nccl"), setup=("ulimit -n 65536",), grace_s=120,
        rendezvous=Rendezvous.NODEADDR, cluster="alps",
        tiers=(Tier(name="experiments", qos="low", partition="gpu-scavenge", nice=100),),
    ),
)  # fmt: skip
CONTAINER = dataclasses.replace(
    FULL,
    name="container",
    slurm=SlurmSite(partition="gpu", gpu_option=GpuOption.PER_NODE),
    apptainer=ApptainerSite(
        image="/shared/images/trainer 1.sif", binds=("/scratch",), identity=IMAGE
    ),
)
MPI = dataclasses.replace(
    CONTAINER,
    name="mpi",
    apptainer=ApptainerSite(image="/shared/images/trainer.sif", mpi=Mpi.HYBRID, identity=IMAGE),
)
HOST_MPI = dataclasses.replace(
    MPI,
    apptainer=ApptainerSite(
        image="/shared/images/trainer.sif", mpi=Mpi.BIND, mpi_dir="/opt/openmpi-4.1", identity=IMAGE
    ),
)


def spec(name: str = "base", ranks: int = 1, nodes: int = 1, **more: object) -> RunSpec:
    """A run whose global batch fits its ranks."""
    batch = 64 if more.get("scaling") is not Scaling.STRONG else 256 // ranks
    values = {"distributed": ranks > 1, "steps": 100, **more}
    return RunSpec(
        name=name, dataset=Dataset.SYNTHETIC, ranks=ranks, nodes=nodes, per_rank_batch=batch,
        global_batch=batch * ranks, **values,
    )  # fmt: skip


CASES = {
    "baseline-bare": (spec(), BARE, JobOptions()),
    "baseline-full": (spec(), FULL, JobOptions()),
    "strong-1x2-bare": (spec("strong-n2", 2, scaling=Scaling.STRONG), BARE, JobOptions()),
    "strong-4x4-full": (spec("strong-n16", 16, 4, scaling=Scaling.STRONG), FULL, JobOptions()),
    "weak-2x1-bare": (
        spec("weak-n2", 2, 2, scaling=Scaling.WEAK, loader_workers=2, threads_per_rank=4),
        BARE,
        JobOptions(requeue=False),
    ),
    "weak-2x4-container": (spec("weak-n8", 8, 2, scaling=Scaling.WEAK), CONTAINER, JobOptions()),
    "weak-2x4-mpi-hybrid": (spec("weak-n8", 8, 2, scaling=Scaling.WEAK), MPI, JobOptions()),
    "strong-1x2-mpi-bind": (
        spec("strong-n2", 2, scaling=Scaling.STRONG), HOST_MPI, JobOptions(),
    ),
    "chained-full": (
        spec("chained"),
        FULL,
        JobOptions(
            name="ty-0a1b2c-chained-g0-0123456789",
            comment="trainyard key=ty-0a1b2c-chained-g0-0123456789",
            dependencies=(
                Dependency(after=After.OK, jobs=("12", "13_4")),
                Dependency(after=After.ANY, jobs=("14",)),
            ),
            singleton=True,
            exclude_nodes=("gpu007", "gpu[020-021]"),
            tier="experiments",
            hold=True,
        ),
    ),
}  # fmt: skip


def golden(name: str, text: str) -> None:
    """Compare with the accepted script; a missing one fails."""
    file = GOLDEN / f"{name}.sbatch"
    if os.environ.get("TRAINYARD_ACCEPT"):
        file.write_text(text)
    accepted = file.read_text() if file.is_file() else ""
    diff = "".join(difflib.unified_diff(
        accepted.splitlines(keepends=True), text.splitlines(keepends=True), str(file), "rendered",
    ))  # fmt: skip
    assert accepted == text, f"{diff}\nif that is what you want: {ACCEPT}"


@pytest.mark.parametrize("name", CASES)
def test_script(name):
    run, site, options = CASES[name]
    made = launch(run, site, PATHS, options)
    golden(name, made.script)
    checked = subprocess.run(["bash", "-n"], input=made.script, text=True, check=False)
    assert checked.returncode == 0


def sweep(count: int = 3, **more: object) -> list[tuple[RunSpec, RunPaths]]:
    return [
        (spec(f"lr-{i}", 2, 2, learning_rate=0.1 / (i + 1), **more),
         RunPaths(root=Path("/shared/runs"), run_id=f"sweep.{i}"))
        for i in range(count)
    ]  # fmt: skip


def test_array_script():
    made = launch_array(sweep(), BARE, PATHS, JobOptions(throttle=2))
    golden("sweep-array-bare", made.script)
    assert made.script.count("#SBATCH --output=") == 1


def test_array_of_different_sizes_is_refused():
    runs = [*sweep(1), (spec("alone"), PATHS)]
    with pytest.raises(ConfigurationError, match="one array per size"):
        launch_array(runs, BARE, PATHS)


def test_throttle_belongs_to_arrays():
    with pytest.raises(ConfigurationError, match="launch_array"):
        launch(spec(), BARE, PATHS, JobOptions(throttle=2))


@pytest.mark.parametrize(
    "folder", ["/a b/runs", "/it's", '/q"q', "/semi;colon", "/hash#", "/ü", "/p%j", "/$HOME"]
)
def test_odd_folders_are_quoted(folder):
    script = launch(spec(), BARE, RunPaths(root=Path(folder), run_id="r")).script
    checked = subprocess.run(["bash", "-n"], input=script, text=True, check=False)
    assert checked.returncode == 0
    assert script.count("#SBATCH") == launch(spec(), BARE, PATHS).script.count("#SBATCH")


@pytest.mark.parametrize(
    "folder", ["/new\nline", "/new\rline", "/tab\tbed", "/back\\slash", "/both\"and'", "/del\x7f"]
)
def test_folders_no_directive_can_hold_are_refused(folder):
    with pytest.raises(ConfigurationError, match="choose another name"):
        launch(spec(), BARE, RunPaths(root=Path(folder), run_id="r"))


@pytest.mark.parametrize("name", ["a b", "a;b", "a\nb", "a'b", "-x", "ü", "a,b", "x" * 201])
def test_odd_job_names_are_refused(name):
    with pytest.raises(ConfigurationError, match="A-Z a-z 0-9"):
        JobOptions(name=name)
    with pytest.raises(ConfigurationError, match="A-Z a-z 0-9"):
        launch(spec(), BARE, RunPaths(root=Path("/r"), run_id=name))


@given(st.text())
def test_a_directive_is_one_line_or_nothing(value):
    try:
        line = directive("comment", value)
    except ConfigurationError:
        return
    assert len(line.splitlines()) == 1 or not set("\n\r\t\0") & set(line)
    assert line.startswith("#SBATCH --comment")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("partition", "gpu --wrap=x"), ("partition", "gpu\n#SBATCH --uid=0"), ("account", "a;b"),
        ("account", "--uid"), ("qos", "q'"), ("constraint", "a b"), ("gpu_type", "a100:8"),
        ("exclude_nodes", ("n1 n2",)), ("modules", ("cuda\nrm -rf /",)), ("setup", ("a\nb",)),
        ("grace_s", -1), ("rendezvous_port", 80), ("memory_mb", 2**40),
    ],
)  # fmt: skip
def test_impossible_site_fields_are_refused(field, value):
    with pytest.raises(ConfigurationError, match=f"slurm.{field}"):
        SlurmSite(**{field: value})


@pytest.mark.parametrize(
    ("run", "site", "message"),
    [
        (spec("big", 32, 1, threads_per_rank=1), BARE, "32 CPUs: site 'bare' has 16"),
        (spec("big", 8, 1), FULL, "has 4 GPUs on a node"),
        (spec("big", 128, 8), BARE, "at most 64"),
    ],
)
def test_impossible_resources_are_refused(run, site, message):
    with pytest.raises(ConfigurationError, match=message):
        launch(run, site, PATHS)


def test_a_cpu_run_on_a_gpu_site_asks_for_no_gpu():
    assert "gres" not in launch(spec(device=Device.CPU), FULL, PATHS).script


def test_ncu_only_where_there_are_gpus():
    with pytest.raises(ConfigurationError, match="ncu"):
        launch(spec("p", profiler=Profiler.NCU), BARE, PATHS)


def test_a_profiler_changes_nothing_of_how_a_run_is_started():
    plain, profiled = spec("p", 2), spec("p", 2, profiler=Profiler.NSYS)
    assert launch(profiled, FULL, PATHS).script == launch(plain, FULL, PATHS).script


def test_a_script_that_slurm_would_refuse_is_not_rendered():
    small = dataclasses.replace(BARE, slurm=SlurmSite(largest_script_bytes=8000))
    assert len(launch(spec(), small, PATHS).script) < 8000
    with pytest.raises(ConfigurationError, match="split the array"):
        launch_array(sweep(20), small, PATHS)


def test_unknown_tier_names_the_choices():
    with pytest.raises(ConfigurationError, match="choose from experiments"):
        launch(spec(), FULL, PATHS, JobOptions(tier="inference"))


def test_dependency_must_be_job_ids():
    with pytest.raises(ConfigurationError, match="123_4"):
        Dependency(after=After.OK, jobs=("12,13",))


SITE_FILE = """
[cluster]
launcher = "slurm"
python = "/opt/trainer/bin/python"
runs_dir = "/shared/runs"
data_dir = "/shared/data"
cores = 16
[cluster.slurm]
partition = "gpu"
modules = ["cuda"]
gpu_option = "gpus-per-node"
[cluster.slurm.tiers.training]
qos = "high"
nice = 5
"""


def test_site_file():
    site = parse_sites(SITE_FILE, "sites.toml")["cluster"]
    assert site.slurm == SlurmSite(
        partition="gpu", modules=("cuda",), gpu_option=GpuOption.PER_NODE,
        tiers=(Tier(name="training", qos="high", nice=5),),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('partition = "gpu"', "partition = 5", "partition = 5: must be text"),
        ('modules = ["cuda"]', 'modules = "cuda"', "must be a list of texts"),
        ('modules = ["cuda"]', 'module = ["cuda"]', "module is no field; choose from account"),
        ('modules = ["cuda"]', 'image = "/x.sif"', r"move it to .*cluster\.apptainer\.image"),
        ('"gpus-per-node"', '"tres"', "choose from gres, gpus-per-node"),
        ("nice = 5", 'nice = "5"', "nice = '5': must be a whole number"),
        ('launcher = "slurm"', 'launcher = "process"', "belong together"),
    ],
)
def test_site_file_mistakes_are_named(old, new, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_sites(SITE_FILE.replace(old, new), "sites.toml")
