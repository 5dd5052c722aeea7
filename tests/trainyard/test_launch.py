"""``launch`` of plain processes: the exact text, every optional field of a site on and off."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import fields, replace
from pathlib import Path

import pytest

from tests.fakes.runs import SPEC
from tests.goldens import check
from trainer.contract import Dataset
from trainyard.errors import ConfigurationError
from trainyard.launch import launch
from trainyard.paths import RunPaths
from trainyard.sites import Site

MINIMAL = Site(
    name="laptop",
    python="/opt/trainer/bin/python",
    runs_dir="/data/runs",
    data_dir="/data/sets",
    cores=2,
)
FULL = replace(
    MINIMAL,
    name="workstation",
    cores=64,
    gpus_per_node=4,
    cpu_model="EPYC",
    network_interface="eth1",
    environment=(("HTTP_PROXY", "http://proxy:3128"), ("NCCL_DEBUG", "WARN")),
    largest_ranks=8,
    run_timeout_s=60,
    cache_dir="/scratch/trainyard",
    cache_limit="200 GB",
)
DIGITS = replace(
    SPEC, name="digits-n1", dataset=Dataset.DIGITS, dataset_digest="0123456789abcdef" * 4
)
TWO = replace(DIGITS, name="digits-n2", ranks=2, global_batch=128, threads_per_rank=4)
ALONE = replace(SPEC, name="base-n1", distributed=False)
PATHS = RunPaths(root=Path("/data/runs"), run_id="study.run_on_cpu.0-12345678")


def shown(spec, site, paths=PATHS) -> str:
    made = launch(spec, site, paths)
    env = "".join(f"{name}={value}\n" for name, value in made.env)
    return f"argv: {shlex.join(made.argv)}\n\nenv:\n{env}\nscript:\n{made.script}"


@pytest.mark.parametrize(
    ("name", "spec", "site"),
    [
        ("minimal-base-without-ddp", ALONE, MINIMAL),
        ("minimal-synthetic-one-rank", SPEC, MINIMAL),
        ("minimal-digits-two-ranks", TWO, MINIMAL),
        ("full-digits-two-ranks", TWO, FULL),
        ("full-base-without-ddp", ALONE, FULL),
    ],
)
def test_golden(name, spec, site):
    check(f"launch/process-{name}.txt", shown(spec, site))


def test_the_full_site_has_every_optional_field_on_and_the_minimal_one_off():
    others = {
        "launcher",
        "run_timeout_s",
        "slurm",
        "docker",
        "apptainer",
    }  # of other launchers, or always given
    optional = [f.name for f in fields(Site) if f.name not in others]
    for name in optional:
        assert getattr(FULL, name), name
    off = ("gpus_per_node", "cpu_model", "network_interface", "environment")
    assert not any(getattr(MINIMAL, name) for name in off)


def test_threads_are_named_in_every_run():
    for spec in (ALONE, SPEC, TWO):
        assert ("OMP_NUM_THREADS", str(spec.threads_per_rank)) in launch(spec, MINIMAL, PATHS).env


def test_a_site_without_gpus_hides_them_and_one_with_gpus_does_not():
    assert ("CUDA_VISIBLE_DEVICES", "") in launch(SPEC, MINIMAL, PATHS).env
    assert "CUDA_VISIBLE_DEVICES" not in dict(launch(SPEC, FULL, PATHS).env)


def test_more_ranks_than_the_site_takes():
    spec = replace(SPEC, ranks=4, global_batch=256)
    with pytest.raises(ConfigurationError, match="ranks = 4: site 'laptop' runs at most 2"):
        launch(spec, MINIMAL, PATHS)


def test_more_ranks_than_cores_but_not_than_the_site_takes_are_launched():
    """The trainer flags them as oversubscribed; refusing is the site's affair."""
    spec = replace(SPEC, ranks=4, global_batch=256)
    assert "4" in launch(spec, replace(MINIMAL, largest_ranks=4), PATHS).argv


def test_several_nodes_need_a_cluster():
    spec = replace(SPEC, ranks=2, nodes=2, global_batch=128)
    with pytest.raises(ConfigurationError, match="nodes = 2"):
        launch(spec, MINIMAL, PATHS)


HOSTILE = [
    "a b",
    "quote'd",
    'dou"ble',
    "$(touch hacked)",
    "`touch hacked`",
    "a;touch hacked",
    "ü",
    "a\nb",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_the_script_quotes_whatever_the_site_holds(tmp_path, name):
    """The rendered script itself runs, in a folder and with a program of such a name."""
    place = tmp_path / name
    place.mkdir()
    program = place / "python"
    program.write_text('#!/bin/bash\nprintf "%s\\n" "$VALUE" "$@" > said\n')
    program.chmod(0o755)
    site = replace(
        MINIMAL,
        python=str(program),
        runs_dir=str(place / "runs"),
        data_dir=str(place / "data"),
        environment=(("VALUE", name),),
    )
    paths = RunPaths(root=Path(site.runs_dir), run_id="run")
    paths.run_dir.mkdir(parents=True)
    made = launch(replace(DIGITS, distributed=False), site, paths)
    done = subprocess.run(
        ["bash", "-c", made.script], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = (paths.run_dir / "said").read_text()
    assert made.argv[:4] == ("timeout", "--kill-after=30", "3720", str(program))
    assert said == "".join(f"{word}\n" for word in (name, *made.argv[4:]))
    assert paths.exit_code.read_text() == "0\n"
    assert not list(tmp_path.rglob("hacked"))
