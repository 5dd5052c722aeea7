"""``.env``: random, private, never overwritten, completed on an upgrade."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainyard.compose import envfile, keys
from trainyard.errors import ConfigurationError

SECRETS = [key.name for key in keys.KEYS if key.secret]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_is_complete_private_and_random(tmp_path):
    umask = os.umask(0)  # what would make a careless file readable for everybody
    try:
        first, added = envfile.ensure(tmp_path / "one" / ".env")
        second, _ = envfile.ensure(tmp_path / "two" / ".env")
    finally:
        os.umask(umask)
    assert added == [key.name for key in keys.KEYS] == list(first)
    assert mode(tmp_path / "one" / ".env") == 0o600
    for name in SECRETS:
        assert len(first[name]) >= 24, name
        assert first[name] != second[name], name
    assert len({first[name] for name in SECRETS}) == len(SECRETS), "two secrets are the same"


def test_keys_have_the_form_that_their_readers_ask_for(tmp_path):
    from cryptography.fernet import Fernet

    values, _ = envfile.ensure(tmp_path / ".env")
    fernet = Fernet(values["AIRFLOW_FERNET_KEY"])
    assert fernet.decrypt(fernet.encrypt(b"x")) == b"x"
    assert len(values["AIRFLOW_JWT_SECRET"]) >= 64  # bytes of SHA-512: RFC 7518, 3.2
    assert len(base64.b64decode(values["SLURM_MUNGE_KEY"])) == 128
    passwords = [values[name] for name in SECRETS if name.endswith("_PASSWORD")]
    assert all(word.isalnum() for word in passwords), "needs quoting somewhere"


def test_an_existing_file_is_never_changed(tmp_path):
    path = tmp_path / ".env"
    before, _ = envfile.ensure(path)
    text = path.read_bytes()
    after, added = envfile.ensure(path)
    assert (after, added, path.read_bytes()) == (before, [], text)


def test_an_upgrade_adds_what_is_missing_and_leaves_every_line(tmp_path):
    path = tmp_path / ".env"
    old = "# mine\nAIRFLOW_PORT=18080\nexport ADMIN_PASSWORD='with = and #'\nUNKNOWN=kept"
    path.write_text(old)
    path.chmod(0o644)
    values, added = envfile.ensure(path)
    assert path.read_text().startswith(old + "\n")
    assert values["AIRFLOW_PORT"] == "18080"
    assert values["ADMIN_PASSWORD"] == "with = and #"
    assert values["UNKNOWN"] == "kept"
    assert {"AIRFLOW_PORT", "ADMIN_PASSWORD"}.isdisjoint(added)
    assert mode(path) == 0o600, "still readable for others"


def test_two_commands_at_once_make_one_file(tmp_path):
    code = (
        "import sys, json; from pathlib import Path; from trainyard.compose import envfile;"
        "print(json.dumps(envfile.ensure(Path(sys.argv[1]))[0]))"
    )
    path = tmp_path / ".env"
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    outcomes = {process.communicate(timeout=60)[0] for process in started}
    assert len(outcomes) == 1
    assert all(process.returncode == 0 for process in started)


def test_compose_reads_the_same_values_as_we_do(tmp_path):
    """The nightly schedule has blanks and stars: quoting must mean the same to both."""
    import json
    import shutil

    from tests.requirements import need

    need(shutil.which("docker"), "docker with the compose plugin (docs/stack.md)")
    path = tmp_path / ".env"
    values, _ = envfile.ensure(path)
    names = [key.name for key in keys.KEYS if not key.secret]
    lines = "".join(f'      {name}: "${{{name}}}"\n' for name in names)
    file = tmp_path / "compose.yaml"
    file.write_text(f"services:\n  a:\n    image: a:1\n    environment:\n{lines}")
    shown = subprocess.run(
        ["docker", "compose", "-p", "x", "-f", str(file), "--env-file", str(path), "config",
         "--format", "json"], capture_output=True, text=True, check=True,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]},
    )  # fmt: skip
    found = json.loads(shown.stdout)["services"]["a"]["environment"]
    del found["COMPOSE_PROFILES"], values["COMPOSE_PROFILES"]  # Compose sets it itself
    assert found == {name: values[name] for name in names if name in values}


@given(
    st.dictionaries(
        st.from_regex(r"[A-Z_][A-Z0-9_]{0,20}", fullmatch=True),
        st.text(st.characters(codec="ascii", exclude_characters="'\"\n\r",
                              categories=["L", "N", "P", "Zs"])),
        max_size=6,
    )
)  # fmt: skip
def test_quoted_values_come_back(values):
    text = "".join(f"{name}='{value}'\n" for name, value in values.items())
    assert envfile.parse(text, "x") == values


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("nonsense\n", "line 1"),
        ("A=1\n\n- list\n", "line 3"),
    ],
)
def test_a_line_that_is_none_is_named_without_its_value(text, named):
    with pytest.raises(ConfigurationError, match=named):
        envfile.parse(text, ".env")


def test_a_file_of_another_format_is_refused_and_left_alone(tmp_path):
    path = tmp_path / ".env"
    path.write_text("TRAINYARD_ENV=7\n")
    with pytest.raises(ConfigurationError, match=r"TRAINYARD_ENV = '7'.*format 1"):
        envfile.ensure(path)
    assert path.read_text() == "TRAINYARD_ENV=7\n"


def test_an_empty_secret_is_refused(tmp_path):
    path = tmp_path / ".env"
    path.write_text("ADMIN_PASSWORD=\n")
    with pytest.raises(ConfigurationError, match="ADMIN_PASSWORD is empty"):
        envfile.ensure(path)
