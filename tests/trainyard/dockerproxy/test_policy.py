"""The policy file: what may stand in it, and what an error says."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from trainyard.dockerproxy.__main__ import main
from trainyard.dockerproxy.policy import load_policy, matches
from trainyard.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[3]
GOOD = 'images = ["a:*"]\nnetworks = ["n"]\n'


def load(tmp_path, text):
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return load_policy(path)


def test_the_shipped_policy_is_valid_and_narrow():
    policy = load_policy(ROOT / "containers" / "docker-proxy" / "policy.toml")
    assert policy.images == ("trainyard/trainer:*",)
    assert not any("*" in name for name in policy.volumes + policy.networks)
    assert not policy.binds + policy.binds_below
    assert not policy.pull


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("images = [", "not a TOML file"),
        ('networks = ["n"]', "images missing"),
        ("", "images and networks missing"),
        (GOOD + "image = 1", "image is unknown; choose from binds, binds_below"),
        (GOOD.replace('["a:*"]', '"a"'), "must be a list of texts"),
        (GOOD.replace('["a:*"]', "[]"), "images is empty"),
        (GOOD + "pids = true", "pids = True: must be of type int"),
        (GOOD + "pids = 0", "must be more than 0"),
        (GOOD + 'binds = ["/"]', "owns the host"),
        (GOOD + 'binds = ["/var/run/docker.sock"]', "owns the host"),
        (GOOD + 'binds_below = ["/var/lib"]', "owns the host"),
        (GOOD + 'binds = ["/etc/trainyard"]', "owns the host"),
        (GOOD + 'binds = ["/srv/"]', "without .., // and trailing slash"),
        (GOOD + 'binds = ["srv"]', "absolute"),
        (GOOD + 'user = "0:0"', "neither of them 0"),
        (GOOD + 'user = "root"', "in digits"),
        (GOOD + 'listen = "2375"', "host:port"),
        (GOOD.replace('"n"', '"host"'), "network of the host"),
    ],
)
def test_a_wrong_policy_names_file_key_and_rule(tmp_path, capsys, text, says):
    with pytest.raises(ConfigurationError, match=r"policy\.toml") as caught:
        load(tmp_path, text)
    assert says in str(caught.value)
    assert main(["--policy", str(tmp_path / "policy.toml"), "--check"]) == 2
    assert says in capsys.readouterr().err


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none.toml: No such file"):
        load_policy(tmp_path / "none.toml")


def test_a_good_policy_passes_the_check(tmp_path):
    (tmp_path / "policy.toml").write_text(GOOD)
    assert main(["--policy", str(tmp_path / "policy.toml"), "--check"]) == 0


def test_nobody_answering_is_not_healthy(tmp_path):
    (tmp_path / "policy.toml").write_text(GOOD + 'listen = "127.0.0.1:1"')
    assert main(["--policy", str(tmp_path / "policy.toml"), "--ping"]) == 1


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("a:*", "a:1", True),
        ("a:*", "a:1/b", False),
        ("a:*", "ab:1", False),
        ("a.b", "aXb", False),
        ("*", "x/y", False),
        ("nvcr.io/nvidia/pytorch:25.*-py3", "nvcr.io/nvidia/pytorch:25.09-py3", True),
        ("a@sha256:*", "a@sha256:00", True),
        ("a", "a\n", False),
    ],
)
def test_a_star_stands_for_anything_but_a_slash(pattern, text, expected):
    assert matches(pattern, text) is expected


def test_the_proxy_needs_what_its_image_holds_and_no_more():
    allowed = {*sys.stdlib_module_names, "aiohttp", "yarl"}
    for path in sorted((ROOT / "plugins" / "trainyard" / "dockerproxy").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                ours = name == "trainyard.errors" or name.startswith("trainyard.dockerproxy")
                assert ours or name.split(".")[0] in allowed, f"{path.name} imports {name}"
