"""Sites with an image: the exact command of the process launcher, and what is refused.

Scripts for Slurm stand in ``slurm/test_slurm_launch.py``.
"""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import fields, replace
from pathlib import Path

import pytest

from tests.fakes.runs import SPEC
from tests.goldens import check
from trainer.contract import Dataset, dumps, loads
from trainyard.apptainer.prefix import CHANGED
from trainyard.apptainer.site import ApptainerSite, GpuLibraries, Home, ImageIdentity, Mpi
from trainyard.errors import ConfigurationError
from trainyard.launch import launch
from trainyard.paths import RunPaths
from trainyard.sites import Site, parse_sites
from trainyard.slurm.site import SlurmSite

IMAGE = ImageIdentity(sha256="0a" * 32, size=4823, mtime="1763789000.250000000", inode=77)
MINIMAL = Site(
    name="laptop",
    python="/opt/trainer/bin/python",
    runs_dir="/data/runs",
    data_dir="/data/sets",
    cores=2,
    apptainer=ApptainerSite(image="/images/trainer.sif", identity=IMAGE),
)
FULL = replace(
    MINIMAL,
    name="workstation",
    cores=64,
    gpus_per_node=4,
    environment=(("NCCL_DEBUG", "WARN"),),
    apptainer=ApptainerSite(
        image="docker-archive:/images/it's a trainer.tar",
        executable="/opt/apptainer/bin/apptainer",
        binds=("/shared", "/from:/to:ro"),
        scratch="/local/scratch",
        gpu_libraries=GpuLibraries.ROCM,
        clean_environment=False,
        pass_environment=("LICENSE_SERVER", "UCX_*"),
        home=Home.RUN,
        userns=True,
        identity=IMAGE,
    ),
)
DIGITS = replace(
    SPEC, name="digits-n1", dataset=Dataset.DIGITS, dataset_digest="0123456789abcdef" * 4
)
TWO = replace(DIGITS, name="digits-n2", ranks=2, global_batch=128, threads_per_rank=4)
ALONE = replace(SPEC, name="base-n1", distributed=False)
PATHS = RunPaths(root=Path("/data/runs"), run_id="study.run_on_cpu.0-12345678")


def change(site: Site, **values: object) -> Site:
    return replace(site, apptainer=replace(site.apptainer, **values))


@pytest.mark.parametrize(
    ("name", "spec", "site"),
    [
        ("minimal-base-without-ddp", ALONE, MINIMAL),
        ("minimal-digits-two-ranks", TWO, MINIMAL),
        ("full-digits-two-ranks", TWO, FULL),
        ("full-base-without-ddp", ALONE, FULL),
    ],
)
def test_golden(name, spec, site):
    made = launch(spec, site, PATHS)
    env = "".join(f"{name}={value}\n" for name, value in made.env)
    check(f"launch/apptainer-{name}.txt", f"env:\n{env}\nscript:\n{made.script}")
    checked = subprocess.run(["bash", "-n"], input=made.script, text=True, check=False)
    assert checked.returncode == 0


def test_the_full_site_has_every_optional_field_on_and_the_minimal_one_off():
    defaults = {f.name: f.default for f in fields(ApptainerSite)}
    others = {"image", "identity", "mpi", "mpi_type", "mpi_dir"}  # always given, or Slurm's alone
    for name in defaults.keys() - others:
        assert getattr(FULL.apptainer, name) != defaults[name], name
        assert getattr(MINIMAL.apptainer, name) == defaults[name], name


def test_without_the_image_the_command_is_the_same_but_for_the_prefix():
    """Sites differ in the site: the trainer gets the same words in and outside a container."""
    outside = launch(TWO, replace(MINIMAL, apptainer=None), PATHS)
    inside = launch(TWO, MINIMAL, PATHS)
    command = shlex.join(outside.argv[3:])
    assert inside.argv[:5] == (*outside.argv[:3], "bash", "-c")
    assert inside.argv[5].endswith(f" /images/trainer.sif {command}")
    extra = ("TRAINYARD_IMAGE_DIGEST", f"sha256:{'0a' * 32}")
    assert sorted((*outside.env, extra)) == list(inside.env)


def test_every_variable_of_the_launch_goes_into_the_container():
    made = launch(TWO, replace(MINIMAL, environment=(("ANY", "thing"),)), PATHS)
    names = made.argv[5].partition("for name in ")[2].partition(";")[0].split()
    assert {name for name, _ in made.env} <= set(names)
    assert "${!TRAINYARD_@}" in names


@pytest.mark.parametrize("seen", ["trainer.sif", "missing.sif"])
def test_another_image_than_the_planned_one_does_not_start(tmp_path, seen):
    image = tmp_path / "trainer.sif"
    image.write_bytes(b"x" * 4823)
    site = change(MINIMAL, image=str(tmp_path / seen), executable="/bin/echo")
    made = launch(ALONE, site, PATHS)
    done = subprocess.run(made.argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (CHANGED, "")
    assert "plan the study again" in done.stderr
    assert f"sha256:{'0a' * 32}" in done.stderr


def test_a_result_must_be_able_to_say_what_ran():
    with pytest.raises(ConfigurationError, match="not known which image"):
        launch(ALONE, change(MINIMAL, identity=None), PATHS)


def test_data_is_bound_for_runs_that_have_some():
    """Apptainer ends at once when a folder it shall bind does not exist."""
    assert "/data/sets" not in launch(ALONE, MINIMAL, PATHS).script
    assert "--bind /data/sets " in launch(TWO, MINIMAL, PATHS).script


@pytest.mark.parametrize(
    ("program", "variable"),
    [("apptainer", "APPTAINERENV"), ("/opt/bin/singularity", "SINGULARITYENV")],
)
def test_each_program_reads_variables_of_its_own(program, variable):
    script = launch(ALONE, change(MINIMAL, executable=program), PATHS).script
    assert f'export "{variable}_$name=${{!name}}"' in script


def test_a_plan_keeps_which_image_it_was():
    assert loads(Site, dumps(FULL)) == FULL


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image", "trainer.sif", "absolute path of a .sif file"),
        ("image", "docker://nvcr.io/nvidia/pytorch:25.10", "apptainer build .* docker://nvcr"),
        ("image", "/a\nb", "one line"),
        ("executable", "", "is empty"),
        ("binds", ("relative",), "must be /path, /from:/to"),
        ("binds", ("/a,/b",), "without a comma"),
        ("binds", ("/a:/b:rx",), "must be /path"),
        ("scratch", "scratch", "absolute path"),
        ("scratch", "/a:b", "without commas and colons"),
        ("pass_environment", ("A B",), "name of a variable"),
        ("pass_environment", ("*",), "name of a variable"),
        ("mpi", Mpi.BIND, "belong together"),
        ("mpi_dir", "/opt/openmpi", "belong together"),
        ("mpi_type", "pmix;id", "srun --mpi=list"),
    ],
)
def test_what_apptainer_would_misread_is_refused(field, value, message):
    with pytest.raises(ConfigurationError, match=message):
        replace(MINIMAL.apptainer, **{field: value})


@pytest.mark.parametrize("values", [{"sha256": "0A"}, {"size": 0}, {"mtime": "now"}])
def test_an_identity_is_complete(values):
    with pytest.raises(ConfigurationError):
        replace(IMAGE, **values)


@pytest.mark.parametrize("field", ["runs_dir", "data_dir"])
@pytest.mark.parametrize("folder", ["/a,b", "/a:b"])
def test_folders_that_cannot_be_bound_are_refused(field, folder):
    with pytest.raises(ConfigurationError, match=f"{field} = .* without commas and colons"):
        replace(MINIMAL, **{field: folder})


def test_srun_is_needed_to_start_ranks():
    with pytest.raises(ConfigurationError, match="this site has no Slurm"):
        change(MINIMAL, mpi=Mpi.HYBRID)


def test_one_container_around_the_other_is_refused():
    text = SITE_FILE.replace("cores = 2", 'cores = 2\nlauncher = "docker"')
    text += '[box.docker]\nimage = "trainyard/trainer:dev"\n'
    with pytest.raises(ConfigurationError, match="containers of its own"):
        parse_sites(text, "sites.toml")


SITE_FILE = """
[box]
python = "/opt/trainer/bin/python"
runs_dir = "/data/runs"
data_dir = "/data/sets"
cores = 2
[box.apptainer]
image = "/images/trainer.sif"
binds = ["/shared"]
gpu_libraries = "rocm"
home = "host"
userns = true
"""


def test_site_file():
    site = parse_sites(SITE_FILE, "sites.toml")["box"]
    assert site.apptainer == ApptainerSite(
        image="/images/trainer.sif",
        binds=("/shared",),
        gpu_libraries=GpuLibraries.ROCM,
        home=Home.HOST,
        userns=True,
    )


def test_the_table_is_the_same_for_a_cluster():
    text = SITE_FILE.replace("cores = 2", 'cores = 2\nlauncher = "slurm"') + "[box.slurm]\n"
    site = parse_sites(text, "sites.toml")["box"]
    assert site.slurm == SlurmSite()
    assert site.apptainer == parse_sites(SITE_FILE, "sites.toml")["box"].apptainer


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('image = "/images/trainer.sif"', "", "box.apptainer.image is missing"),
        ('image = "/images/trainer.sif"', "image = 5", "image = 5: must be text"),
        ('binds = ["/shared"]', 'binds = "/shared"', "must be a list of texts"),
        ("userns = true", 'userns = "yes"', "must be true or false"),
        ('"rocm"', '"cuda"', "choose from nv, rocm, none"),
        ('"host"', '"mine"', "choose from none, run, host"),
        ("userns", "user_ns", "user_ns is no field; choose from binds"),
        ("userns = true", 'identity = "0a"', "identity is no field"),
    ],
)
def test_site_file_mistakes_are_named(old, new, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_sites(SITE_FILE.replace(old, new), "sites.toml")
