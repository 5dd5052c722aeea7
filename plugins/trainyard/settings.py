"""``Settings``: which services this installation uses, from one TOML file.

The file is named by ``TRAINYARD_SETTINGS``; the local stack writes it. Secrets stand in it, so it
is created readable by its owner alone.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from urllib.parse import unquote, urlsplit

from trainyard.errors import ConfigurationError


@dataclass(kw_only=True, slots=True, frozen=True)
class Settings:
    """Where the services are; no choice about the work itself."""

    results_url: str = field(repr=False)
    """Results database: ``sqlite:////absolute/path`` or ``postgresql://user:password@host/name``."""
    s3_endpoint: str
    """``host:port`` of the object store."""
    s3_access_key: str
    """Access key."""
    s3_secret_key: str = field(repr=False)
    """Secret key; never printed."""
    s3_secure: bool = False
    """Use TLS towards the object store."""
    s3_bucket: str = "trainyard"
    """Bucket for data sets, artifacts and reports."""
    mlflow_url: str
    """Tracking server, as tasks reach it."""
    mlflow_public_url: str = ""
    """Tracking server, as a person's browser reaches it; empty: the same."""
    airflow_public_url: str = "http://localhost:8080"
    """Airflow web UI, as a person's browser reaches it."""
    reports_dir: str
    """Folder in which reports are built before they go to the object store."""
    sites_file: str
    """TOML file of sites (see ``trainyard.sites``)."""
    nightly_schedule: str = "0 2 * * *"
    """Cron line of ``nightly_benchmark`` in UTC; empty: only when triggered."""
    default_site: str = "local"
    """Site preselected in the trigger forms."""
    downloads_dir: str
    """Folder for interrupted downloads, kept so that they can resume."""
    datasets_file: str = ""
    """TOML file of mirrors and further data sets (docs/datasets.md); empty: those built in."""
    stream_every_s: int = 10
    """Seconds between two looks for finished checkpoints, profiles and logs to send; 0: at the end
    of the run only."""
    stream_bytes_per_s: int = 0
    """Most bytes per second that streaming one run sends; 0: as many as the line takes."""
    keep_local_checkpoints: int = 2
    """Checkpoints that stay in the run folder once they are stored; 1 or more."""
    keep_checkpoints_days: int = 14
    """Days after which streamed checkpoints expire in the object store (docs/storage.md)."""
    keep_profiles_days: int = 90
    """Days after which raw profiles expire there."""
    keep_logs_days: int = 90
    """Days after which the output of runs expires there."""
    keep_prepared_days: int = 90
    """Days after which prepared arrays expire there; they are made again from their archive."""
    s3_warm_tier: str = ""
    """Remote tier of the store to which old data sets, runs and reports move; empty: none."""
    warm_after_days: int = 30
    """Days after which they move."""

    references_dir: str = ""
    """Folder of <site>.toml, what its nodes should reach; empty: ``references`` of the
    repository (docs/environment.md)."""
    environment_hours: int = 24
    """Hours after which a verification of a site is stale and studies make a new one."""

    def secrets(self) -> tuple[str, ...]:
        """Return what no log may show, in every spelling that a library may use."""
        try:
            password = urlsplit(self.results_url).password or ""
        except ValueError:  # no address at all; whoever connects says so
            password = ""
        return tuple({self.s3_secret_key, password, unquote(password)} - {""})


def load_settings(path: Path | None = None) -> Settings:
    """Return the settings from *path* or the file ``TRAINYARD_SETTINGS`` names.

    Raises ``ConfigurationError`` naming the file, the key and the valid keys.
    """
    named = path or (
        Path(os.environ["TRAINYARD_SETTINGS"]) if "TRAINYARD_SETTINGS" in os.environ else None
    )
    if named is None:
        raise ConfigurationError(
            "no settings file: set TRAINYARD_SETTINGS to a TOML file; `make demo` writes one"
        )
    try:
        table = tomllib.loads(named.read_text())
    except OSError as error:
        raise ConfigurationError(f"settings file {named}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"settings file {named}: not a TOML file: {error}") from error
    known = {item.name for item in fields(Settings)}
    for key in table:
        if key not in known:
            raise ConfigurationError(
                f"settings file {named}: {key} is unknown; choose from {', '.join(sorted(known))}"
            )
    try:
        return Settings(**table)
    except TypeError as error:
        raise ConfigurationError(f"settings file {named}: {error}") from error
