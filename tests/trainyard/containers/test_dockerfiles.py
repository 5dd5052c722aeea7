"""What can be told of the images without an engine: their files, the context, the base's making."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.docker_engine import builder
from tests.requirements import need

ROOT = Path(__file__).resolve().parents[3]
CONTAINERS = ROOT / "containers"
NAMES = tuple(builder().IMAGES)
SCRIPTS = sorted([*CONTAINERS.rglob("*.sh"), ROOT / "tests/install_docker_plugins.sh"])


def instructions(name: str) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (CONTAINERS / name / "Dockerfile").read_text(), flags=re.M)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def last_stage(name: str) -> list[tuple[str, str]]:
    found = instructions(name)
    start = max(index for index, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_as_the_unprivileged_user(name):
    users = [value for word, value in last_stage(name) if word == "USER"]
    assert users[-1] == "10001:10001"


@pytest.mark.parametrize("name", NAMES)
def test_its_base_is_an_argument_with_a_fixed_version(name):
    found = instructions(name)
    before = found[: [word for word, _ in found].index("FROM")]
    bases = [value for word, value in before if word == "ARG"]
    assert bases
    for value in bases:
        image, _, tag = value.partition("=")[2].rpartition(":")
        assert image, value
        assert tag != "latest", value
    sources = [value.split()[0] for word, value in found if word == "FROM"]
    stages = {value.split()[2] for word, value in found if word == "FROM" and " AS " in value}
    named = {"${" + value.split("=")[0] + "}" for value in bases}
    assert set(sources) <= named | stages, "a base that nobody can replace"


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_was_built_from(name):
    labels = " ".join(value for word, value in last_stage(name) if word == "LABEL")
    for label in ("title", "description", "licenses", "base.name", "revision", "version"):
        assert f"org.opencontainers.image.{label}=" in labels


@pytest.mark.parametrize("name", NAMES)
def test_the_commit_stands_below_every_step(name):
    words = [
        (word, value) for word, value in last_stage(name) if word in {"RUN", "COPY", "ARG", "LABEL"}
    ]
    commit = next(i for i, (word, value) in enumerate(words) if value.startswith("COMMIT"))
    assert not [value for word, value in words[commit:] if word in {"RUN", "COPY"}]


@pytest.mark.parametrize("name", NAMES)
def test_no_registry_is_asked_for_the_builder_itself(name):
    assert "syntax=" not in (CONTAINERS / name / "Dockerfile").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_build_context_holds_what_is_copied(name):
    allowed = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    for path in builder().sources(name):
        relative = path.relative_to(ROOT)
        assert any(
            relative.match(pattern) or relative.parts[0] == pattern for pattern in allowed
        ), f".dockerignore keeps {relative} from the build"


def test_an_image_is_the_same_as_long_as_its_files_are(tmp_path, monkeypatch):
    build = builder()
    monkeypatch.setattr(build, "inspect", lambda *_: "sha256:1")
    choice = build.Choice(base="b:1")
    keys = {name: build.key(name, choice) for name in NAMES}
    assert len(set(keys.values())) == len(NAMES)
    assert keys == {name: build.key(name, choice) for name in NAMES}
    real = Path.read_bytes

    def edited(path: Path) -> bytes:
        return real(path) + (
            b"#" if path.name == "cli.py" and path.parent.name == "trainer" else b""
        )

    monkeypatch.setattr(Path, "read_bytes", edited)
    changed = {name for name in NAMES if build.key(name, choice) != keys[name]}
    assert changed == {"trainer", "airflow", "slurm"}, "the others hold no trainer"


def test_a_base_is_made_here_only_where_no_registry_answers(monkeypatch):
    build = builder()
    there: set[str] = set()
    monkeypatch.setattr(build, "inspect", lambda reference, _: reference in there)
    monkeypatch.setattr(build.bootstrap, "ensure", lambda: "made")
    answer = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(build.subprocess, "run", lambda *_, **__: answer)
    assert build.choose_base("ngc:1") == ("ngc:1", "as asked for")
    assert build.choose_base() == (build.PUBLIC_BASE, "pulled")
    answer.returncode, answer.stderr = 1, "Error: no such host"
    base, why = build.choose_base()
    assert base == "made"
    assert "no such host" in why
    there.add("trainyard/base:bookworm")
    assert build.choose_base()[0] == "made"
    assert "made here before" in build.choose_base()[1]
    there.add(build.PUBLIC_BASE)
    assert build.choose_base()[0] == build.PUBLIC_BASE


def test_a_base_trusts_what_this_machine_adds_to_its_distribution(tmp_path, monkeypatch):
    def pem(text: str) -> str:
        return f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----"

    bootstrap = builder().bootstrap
    shipped = next(Path("/usr/share/ca-certificates").rglob("*.crt"), None)
    need(shipped, "the distribution's certificate authorities (apt-get install ca-certificates)")
    bundle = tmp_path / "bundle.crt"
    bundle.write_text(shipped.read_text() + pem("company") + "\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    assert bootstrap.own_authorities() == [pem("company")]
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    assert bootstrap.own_authorities() == []


def test_a_missing_mmdebstrap_is_named(monkeypatch):
    bootstrap = builder().bootstrap
    monkeypatch.setattr(bootstrap, "_label", lambda _: "")
    monkeypatch.setattr(bootstrap.shutil, "which", lambda _: None)
    with pytest.raises(bootstrap.BootstrapError, match="apt-get install mmdebstrap"):
        bootstrap.ensure()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shell_scripts_are_clean(script):
    need(shutil.which("shellcheck"), "shellcheck (apt-get install shellcheck)")
    done = subprocess.run(
        ["shellcheck", "--external-sources", str(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_a_build_says_which_images_there_are():
    command = [sys.executable, str(CONTAINERS / "build.py"), "trainers"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "invalid choice: 'trainers'" in done.stderr
    assert "'slurm'" in done.stderr


def test_a_wheel_carries_the_sql_to_where_the_store_looks(tmp_path):
    uv, python = ROOT / ".trainyard/boot/bin/uv", sys.executable
    wheel, env = tmp_path / "dist", tmp_path / "env"
    build = ["build", "--quiet", "--wheel", "--no-build-isolation", "--python", python]
    subprocess.run([str(uv), *build, "--out-dir", str(wheel), str(ROOT)], check=True)
    subprocess.run([str(uv), "venv", "--quiet", "--python", python, str(env)], check=True)
    install = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--python", str(env)]
    subprocess.run([str(uv), *install, *map(str, wheel.glob("*.whl"))], check=True)
    ask = (
        "from trainyard.store.files import SQL_DIR, queries, read_migrations; "
        "print(SQL_DIR, len(queries()), len(read_migrations()))"
    )
    answer = subprocess.run(
        [str(env / "bin/python"), "-I", "-c", ask], capture_output=True, text=True, check=True
    )
    folder, questions, steps = answer.stdout.split()
    assert Path(folder) == env / "share" / "trainyard" / "sql"
    assert int(questions) == len(list((ROOT / "sql/queries").glob("*.sql")))
    assert int(steps) == len(list((ROOT / "sql/migrations").glob("*.sql")))
