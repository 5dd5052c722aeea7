"""Sites and settings: what is wrong in a file is named together with what would be right."""

from __future__ import annotations

import pytest

from tests.fakes.runs import site
from trainer.contract import decode, encode
from trainyard.errors import ConfigurationError
from trainyard.settings import load_settings
from trainyard.sites import Launcher, Site, get_site, load_sites, parse_sites

GOOD = """
[laptop]
python = "/opt/trainer/bin/python"
runs_dir = "/data/runs"
data_dir = "/data/sets"
cores = 2

[box]
python = "/opt/trainer/bin/python"
runs_dir = "/data/runs"
data_dir = "/data/sets"
cores = 64
gpus_per_node = 4
environment = {B = "2", A = 1}
"""


def test_a_site_file():
    sites = parse_sites(GOOD, "sites.toml")
    assert list(sites) == ["laptop", "box"]
    assert sites["laptop"].launcher is Launcher.PROCESS
    assert sites["laptop"].pool == "trainyard_cpu"
    assert sites["box"].pool == "trainyard_gpu"
    assert sites["box"].environment == (("A", "1"), ("B", "2"))


def test_a_site_survives_the_plan_file(tmp_path):
    made = site(tmp_path, environment=(("A", "1"),), gpus_per_node=2)
    assert decode(Site, encode(made)) == made


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cores = 1", r"cores = 1 must be a table \[cores\]"),
        ("[x", "not a TOML file"),
        ("[x]\ncore = 1", r"\[x\] core is no field of a site; choose from .*cores"),
        ("[x]\ncores = 1", r"\[x\].*missing"),
        (GOOD + 'launcher = "magic"', r"launcher = 'magic'; choose from process"),
        (GOOD.replace("cores = 2", "cores = 0"), "site 'laptop': cores = 0 must be 1 or more"),
        (GOOD.replace("gpus_per_node = 4", "gpus_per_node = -1"), "must be 0 or more"),
        (GOOD.replace("/data/runs", "runs"), "runs_dir = 'runs' must be an absolute path"),
    ],
)
def test_a_wrong_site_file_says_what_is_wrong(text, words):
    with pytest.raises(ConfigurationError, match=words):
        parse_sites(text, "sites.toml")


def test_an_unknown_site_names_the_known_ones():
    with pytest.raises(ConfigurationError, match="site = 'moon' is unknown; choose from box, lap"):
        get_site("moon", parse_sites(GOOD, "sites.toml"))


def test_no_site_file(monkeypatch, tmp_path):
    monkeypatch.delenv("TRAINYARD_SITES", raising=False)
    with pytest.raises(ConfigurationError, match="set TRAINYARD_SITES"):
        load_sites()
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml: No such file"):
        load_sites(tmp_path / "nowhere.toml")
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(ConfigurationError, match="holds no site"):
        load_sites(tmp_path / "empty.toml")


class TestSettings:
    def test_no_file(self, monkeypatch):
        monkeypatch.delenv("TRAINYARD_SETTINGS", raising=False)
        with pytest.raises(ConfigurationError, match="set TRAINYARD_SETTINGS"):
            load_settings()

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("[", "not a TOML file"),
            ('s3_endpiont = "x"', "s3_endpiont is unknown; choose from .*s3_endpoint"),
            ('s3_endpoint = "x"', "missing"),
        ],
    )
    def test_a_wrong_file(self, tmp_path, text, words):
        path = tmp_path / "settings.toml"
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=words):
            load_settings(path)

    def test_the_secret_is_not_printed(self, tmp_path):
        from tests.fixtures.settings import make_settings

        settings = make_settings(tmp_path, s3_secret_key="hunter22")
        assert settings.s3_secret_key == "hunter22"
        assert "hunter22" not in repr(settings)


def test_a_cache_is_named_by_an_absolute_folder_and_a_limit(tmp_path):
    with pytest.raises(ConfigurationError, match=r"cache_dir = 'scratch' must be an absolute path"):
        site(tmp_path, cache_dir="scratch")
    with pytest.raises(ConfigurationError, match=r"cache_limit: cache limit 'all of it'"):
        site(tmp_path, cache_dir="/scratch", cache_limit="all of it")
    assert site(tmp_path, cache_dir="/scratch", cache_limit="20%").cache_limit == "20%"
