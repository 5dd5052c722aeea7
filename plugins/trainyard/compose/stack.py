"""``make up``, ``down``, ``status`` and ``logs``: what each does, step by step."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from trainyard.compose import certificates, checks, envfile, render, tools, wait
from trainyard.compose.engine import (
    Compose,
    check_compose,
    docker,
    engine,
    image_exists,
    volume_exists,
)
from trainyard.compose.keys import KEYS, PORTS, ROLES, TLS_PORTS
from trainyard.errors import ConfigurationError, UnavailableError

_TLS_FILE = "docker-compose.tls.yaml"
_OWN = ("airflow", "trainer", "mlflow", "docker-proxy")


@dataclass(kw_only=True, slots=True, frozen=True)
class Options:
    """What the command line says of a stack."""

    root: Path
    """Repository."""
    env_file: Path
    project: str = "trainyard"
    profiles: str = ""
    """In place of COMPOSE_PROFILES."""
    tls: bool = False
    """Adds docker-compose.tls.yaml."""
    files: str = ""
    """In place of COMPOSE_FILE."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Stack:
    """One stack: its choices, its files, its Compose project."""

    values: dict[str, str]
    folder: Path
    """Secrets and other rendered files."""
    compose: Compose
    options: Options

    @property
    def tls(self) -> bool:
        """Whether the TLS proxy is part of it."""
        return any(name.endswith(_TLS_FILE) for name in self.compose.files)

    def wanted(self) -> dict[str, bool]:
        """Return the services that belong to it; of each, whether it does one job and ends."""
        found = self.compose.config()["services"]
        return {name: service.get("restart") == "no" for name, service in found.items()}


def describe(options: Options, values: dict[str, str]) -> Stack:
    """Return the stack that *values* describe, the command line's choices first."""
    profiles = _list(options.profiles or values["COMPOSE_PROFILES"])
    files = (options.files or values["COMPOSE_FILE"]).split(":")
    if options.tls and _TLS_FILE not in files:
        files.append(_TLS_FILE)
    folder = _folder(options)
    files += tools.files(folder, profiles)
    socket = Path(values["DOCKER_SOCKET"])
    environment = {
        "TRAINYARD_STACK_DIR": str(folder),
        "TRAINYARD_EXECUTOR": "CeleryExecutor" if "celery" in profiles else "LocalExecutor",
        # A job may ask for all the memory of its node; slurmd needs some beside it.
        "SLURM_NODE_LIMIT_MB": str(int(values["SLURM_NODE_MEMORY_MB"]) + 256),
        **_mlflow_names(values),
    }
    if socket.exists():
        environment["DOCKER_GID"] = str(socket.stat().st_gid)
    compose = Compose(
        root=options.root, env_file=options.env_file, project=options.project,
        files=tuple(files), profiles=profiles, environment=environment,
    )  # fmt: skip
    return Stack(values=values, folder=folder, compose=compose, options=options)


def _folder(options: Options) -> Path:
    return options.env_file.resolve().parent / ".trainyard" / "stack"


def _mlflow_names(values: dict[str, str]) -> dict[str, str]:
    """Return the host names and origins under which MLflow answers behind the TLS proxy."""
    port = values["MLFLOW_TLS_PORT"]
    hosts = [f"{name.strip()}:{port}" for name in values["TLS_NAMES"].split(",")]
    return {
        "MLFLOW_TLS_HOSTS": ",".join(hosts),
        "MLFLOW_TLS_ORIGINS": ",".join(f"https://{host}" for host in hosts),
    }


def _list(text: str) -> tuple[str, ...]:
    profiles = tuple(part for part in text.replace(",", " ").split() if part)
    known = ("celery", "gpu", "slurm")
    for name in profiles:
        if name not in known:
            raise ConfigurationError(
                f"profile {name!r} is unknown; choose from {', '.join(known)}, with commas"
            )
    return profiles


def prepare(options: Options) -> tuple[Stack, bool]:
    """Make or complete ``.env``, write what containers read; return the stack, and if any changed.

    Raises ``ConfigurationError`` when volumes are there whose passwords a new ``.env`` would not
    hold.
    """
    volume = f"{options.project}_postgres"
    if not options.env_file.exists() and volume_exists(volume):
        raise ConfigurationError(
            f"{options.env_file} is missing, but volume {volume} holds data of an earlier stack, "
            "which only the passwords of that file open. Put the file back; or give up the data: "
            "make down VOLUMES=1"
        )
    values, added = envfile.ensure(options.env_file)
    if added and len(added) < len(KEYS):
        print(f"{options.env_file}: added {', '.join(added)}")
    tools.write(_folder(options), values)
    stack = describe(options, values)
    return stack, write(stack, _place(stack))


def _place(stack: Stack) -> render.Place:
    place = render.Place(
        project=stack.compose.project,
        cores=engine().cores,
        profiles=frozenset(stack.compose.profiles),
        tls=stack.tls,
    )
    if stack.tls:
        certificates.ensure(stack.folder / "tls", stack.values["TLS_NAMES"])
    if "slurm" in place.profiles:
        place = replace(place, login=certificates.login_keys(stack.folder / "ssh"))
    return place


def write(stack: Stack, place: render.Place) -> bool:
    """Write the rendered files; return whether any existing one changed.

    The folder is its owner's alone; a file in it may be read by the user of each container that it
    is mounted into, whatever number that user has.
    """
    folder = stack.folder / "secrets"
    folder.mkdir(parents=True, exist_ok=True)
    for private in (stack.folder, folder):
        private.chmod(0o700)
    changed = False
    for name, content in render.files(stack.values, place).items():
        path = folder / name
        data = content if isinstance(content, bytes) else content.encode()
        if path.is_file() and path.read_bytes() == data:
            continue
        changed = changed or path.is_file()
        envfile.write_private(path, data, mode=0o644)
    return changed


def up(options: Options) -> int:
    """Start the stack and wait until it is well; return the exit code."""
    check_compose()
    machine = engine()
    stack, changed = prepare(options)
    images = missing_images(stack)
    checks.check_room(machine, images=not images)
    own = [number for item in stack.compose.containers() for number in item.ports]
    checks.check_ports(stack.compose.config(), stack.values, own)
    if images:
        print(f"Building {', '.join(images)} …", flush=True)
        make = shutil.which("make") or "make"
        tag = f"TAG={stack.values['TRAINYARD_TAG']}"
        subprocess.run([make, "--no-print-directory", "images", tag], cwd=options.root, check=True)
    # A file that is replaced stays the old one in a running container.
    again = ("--force-recreate",) if changed else ()
    took = wait.start(stack.compose, stack.wanted(), stack.folder / "up.log", *again)
    print(f"Everything is well after {took:.0f} s.\n")
    print(addresses(stack))
    return 0


def missing_images(stack: Stack) -> list[str]:
    """Return our own images that the engine lacks."""
    names = [*_OWN, *(["slurm"] if "slurm" in stack.compose.profiles else [])]
    tagged = [f"trainyard/{name}:{stack.values['TRAINYARD_TAG']}" for name in names]
    return [name for name in tagged if not image_exists(name)]


def addresses(stack: Stack) -> str:
    """Return where everything is, and in which file its password."""
    here = {port.service for port in PORTS} & set(stack.wanted())
    ports = TLS_PORTS if stack.tls else PORTS
    rows = [
        (port.what, f"{port.scheme}://localhost:{stack.values[port.variable]}")
        for port in ports
        if stack.tls or port.service in here
    ]
    width = max(len(what) for what, _ in rows)
    text = "".join(f"  {what:<{width}}  {url}\n" for what, url in rows)
    users = ", ".join(f"{name} ({name.upper()}_PASSWORD)" for name in ROLES)
    text += f"\nUsers of Airflow: {users}; of Grafana: admin (GRAFANA_ADMIN_PASSWORD);"
    text += f"\nof MinIO: root (MINIO_ROOT_PASSWORD). The passwords are in {stack.options.env_file}"
    if stack.tls:
        authority = stack.folder / "tls" / "ca.crt"
        text += f"\nBrowsers must trust {authority if authority.exists() else 'your certificate'}"
    return text


def certs(options: Options) -> int:
    """Make or check the certificate of the TLS proxy; print what browsers must trust."""
    values, _ = envfile.ensure(options.env_file)
    stack = describe(options, values)
    trusted = certificates.ensure(stack.folder / "tls", values["TLS_NAMES"])
    print(f"The certificate is for {values['TLS_NAMES']} (TLS_NAMES in {options.env_file}).")
    print(f"Browsers must trust {trusted}")
    return 0


def existing(options: Options) -> Stack:
    """Return the stack as its ``.env`` describes it; raises where there is none."""
    values = envfile.load(options.env_file)
    if not values:
        raise ConfigurationError(f"{options.env_file} is missing: no stack was made; run `make up`")
    for key in envfile.missing(values):
        values[key.name] = key.make()
    return describe(options, values)


def down(options: Options, *, volumes: bool) -> int:
    """Stop and remove the stack's containers, training ones too; data only with *volumes*."""
    check_compose()
    stack = existing(options)
    project = stack.compose.project
    training = docker("ps", "--all", "--quiet", "--filter", "label=trainyard.managed=true",
                      "--filter", f"volume={project}_runs").split()  # fmt: skip
    if training:
        print(f"Stopping {len(training)} training containers …", flush=True)
        docker("stop", "--time", "30", *training)
        docker("rm", "--force", *training)
    more = ("--volumes",) if volumes else ()
    stack.compose.run("down", "--remove-orphans", *more, every_profile=True)
    kept = "" if volumes else " Data and .env are kept; `make down VOLUMES=1` removes the data."
    print(f"Stopped.{kept}")
    return 0


def status(options: Options) -> int:
    """Print state, health and address of every service; return 0 when all are well."""
    check_compose()
    stack = existing(options)
    wanted = stack.wanted()
    found = {item.service: item for item in stack.compose.containers()}
    names = sorted({*wanted, *found})
    width = max(len(name) for name in names)
    well = True
    for name in names:
        item = found.get(name)
        state = item.told if item else "not created"
        at = " ".join(f"127.0.0.1:{number}" for number in item.ports) if item else ""
        well = well and bool(item and item.is_well(once=wanted.get(name, False)))
        print(f"{name:<{width}}  {item.state if item else '-':<10}  {state:<16}  {at}".rstrip())
    if not well:
        print("\nNot everything is well. Next step: make logs SERVICE=NAME, or make up")
    return 0 if well else 1


def logs(options: Options, service: str) -> int:
    """Follow the log of *service*, or of all; until Ctrl-C."""
    check_compose()
    stack = existing(options)
    known = stack.compose.run("config", "--services", every_profile=True).split()
    if service and service not in known:
        raise ConfigurationError(
            f"SERVICE = {service!r} is unknown; choose from {', '.join(sorted(known))}"
        )
    argv = stack.compose.argv("logs", "--follow", "--tail", "200", *([service] if service else []),
                              every_profile=True)  # fmt: skip
    try:
        done = subprocess.run(
            ["docker", *argv], env={**os.environ, **stack.compose.variables}, check=False
        )
    except KeyboardInterrupt:
        return 0
    if done.returncode:
        raise UnavailableError("docker compose logs failed; its own words stand above")
    return 0
