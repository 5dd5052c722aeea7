"""``[site.docker]`` tables: what is read, and how each mistake is told."""

from __future__ import annotations

import pytest

from trainyard.docker.site import Containers, DockerSite, Mount, Pull
from trainyard.errors import ConfigurationError
from trainyard.sites import Launcher, parse_sites

TEXT = """
[box]
launcher = "docker"
python = "/opt/trainer/bin/python"
runs_dir = "/data/runs"
data_dir = "/data/sets"
cores = 8
gpus_per_node = 2
[box.docker]
image = "trainyard/trainer:dev"
"""


def parsed(more: str = ""):
    return parse_sites(TEXT + more, "sites.toml")["box"]


def test_an_image_is_enough():
    site = parsed()
    assert site.launcher is Launcher.DOCKER
    assert site.docker == DockerSite(image="trainyard/trainer:dev")
    assert (site.docker.network, site.docker.pull, site.docker.user) == ("none", "never", "owner")
    assert site.docker.containers is Containers.ONE


def test_every_field_is_read():
    docker = parsed("""
host = "tcp://proxy:2375"
connection = "docker_default"
pull = "missing"
containers = "per_rank"
network = "ranks"
port = 30000
mounts = ["runs:/data/runs", "/data/sets:/data/sets:ro"]
shm_bytes = 2147483648
tmp_bytes = 1048576
memory_bytes = 8589934592
cpus = 2
cpuset = "0-3,6"
ulimits = ["memlock=-1", "nofile=1024:4096"]
gpus = ["0", "GPU-5c1b-77"]
user = "1000:1000"
pids = 512
log_bytes = 4096
""").docker
    assert docker.pull is Pull.MISSING
    assert docker.cpus == 2.0
    assert docker.all_mounts == (
        Mount(source="runs", target="/data/runs"),
        Mount(source="/data/sets", target="/data/sets", read_only=True),
    )
    assert [mount.is_volume for mount in docker.all_mounts] == [True, False]
    assert docker.names_resolve


def test_cpus_and_gpus_take_their_pools():
    assert parsed().pool == "trainyard_gpu"
    cores = parse_sites(TEXT.replace("gpus_per_node = 2", ""), "x")["box"]
    assert cores.pool == "trainyard_cpu"
    with pytest.raises(ConfigurationError, match="no queue with priorities"):
        cores.tier("urgent")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('nework = "a"', r"box\.docker\.nework is no field; choose from .*network"),
        ('pull = "sometimes"', r"pull = 'sometimes'; choose from never, missing, always"),
        ('containers = "two"', r"choose from one, per_rank"),
        ("shm_bytes = 1", r"shm_bytes = 1: must be 65536 to"),
        ('shm_bytes = "1g"', r"shm_bytes = '1g': must be a whole number"),
        ("memory_bytes = 1000", r"must be 6291456 or more, or 0 for no limit"),
        ('mounts = ["runs"]', r"'runs' must be source:target"),
        ('mounts = ["../x:/y"]', r"the source a volume's name or an absolute path"),
        ('mounts = ["a:/"]', r"must be source:target"),
        ('mounts = ["a:/x:rx"]', r"must be source:target"),
        ('mounts = ["aa:/x", "bb:/x"]', r"'/x' is the target of two mounts"),
        ('ulimits = ["memlock"]', r"must be name=soft or name=soft:hard"),
        ('user = "me"', r"must be 'owner', numbers"),
        ('cpuset = "a"', r"must be cores as in 0-7,16"),
        ('gpus = ["first"]', r"an index or a UUID"),
        ('host = "tcp://me:secret@host:1"', r"without a password"),
        ('network = "my net"', r"must be the name of a network"),
        ("port = 80", r"must be 1024 to 65535"),
        ("mounts = [1]", r"must be a list of texts"),
        ('cpus = "two"', r"must be a number"),
        ("cpus = nan", r"must be 0 to 100000"),
    ],
)
def test_a_mistake_is_told_with_its_rule(line, words):
    with pytest.raises(ConfigurationError, match=words):
        parsed(line)


@pytest.mark.parametrize("text", ["2", "2.0"])
def test_a_number_may_be_written_as_a_whole_one(text):
    found = parsed(f"cpus = {text}").docker.cpus
    assert (found, type(found)) == (2.0, float)


def test_the_image_must_be_named():
    text = TEXT.replace('image = "trainyard/trainer:dev"', "")
    with pytest.raises(ConfigurationError, match=r"box\.docker\.image is missing"):
        parse_sites(text, "sites.toml")
    with pytest.raises(ConfigurationError, match="must be an image with its tag"):
        parse_sites(TEXT.replace("trainyard/trainer:dev", "Trainer"), "sites.toml")


def test_launcher_and_table_belong_together():
    with pytest.raises(ConfigurationError, match=r"box\.docker.*belong together"):
        parse_sites(TEXT.replace('"docker"', '"process"'), "sites.toml")
    with pytest.raises(ConfigurationError, match=r"box\.docker.*belong together"):
        parse_sites(TEXT.partition("[box.docker]")[0], "sites.toml")
    with pytest.raises(ConfigurationError, match=r"must be a table \[sites.toml: box.docker\]"):
        parse_sites(TEXT.partition("[box.docker]")[0] + "docker = 1", "sites.toml")
