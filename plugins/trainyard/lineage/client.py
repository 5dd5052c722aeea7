"""``TrackingClient``: the dozen calls of MLflow's public REST API that Trainyard makes.

Importing ``mlflow`` costs about three seconds of CPU and 176 MB in every task process that records
a run, while the next run may be under measurement on the same cores; this module costs a tenth of
a second and 27 MB. The calls follow https://mlflow.org/docs/latest/rest-api.html, are bounded in
time without a setting that leaks into the process, and talk to nobody but the tracking server. The
tests read back with MLflow's own client what they record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from trainyard.errors import ConfigurationError, TrainyardError, UnavailableError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

Json = dict[str, Any]

CONNECT_SECONDS = 3.0
READ_SECONDS = 15.0
TRIES = 3
_ARTIFACTS = "mlflow-artifacts:"
_METRICS_AT_ONCE = 1000  # limits of one log-batch call, from MLflow's documentation
_PARAMS_AT_ONCE = 100
_TAGS_AT_ONCE = 100
_ENTITIES_AT_ONCE = 1000
# A run that another task found doubled and removed; a param that another task logged between the
# server's own look and its insert (SQLite's words, then PostgreSQL's).
_COLLISIONS = ("current state is deleted", "unique constraint failed", "duplicate key value")


class TrackingClient:
    """One tracking server. Raises ``UnavailableError`` when it does not answer in time.

    A server that is down costs a second, one that hangs at most ``TRIES`` times the read limit.
    """

    def __init__(
        self, url: str, *, read_s: float = READ_SECONDS, connect_s: float = CONNECT_SECONDS
    ) -> None:
        """Talk to *url*, which may carry ``user:password@``; nothing is sent yet."""
        from urllib3 import PoolManager, Retry, Timeout, make_headers

        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigurationError(
                f"mlflow_url = {url!r}: must be the http or https address of a tracking server"
            )
        host = parts.netloc.rpartition("@")[2]
        self.url = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        login = (
            f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
        )
        # Every call here may be repeated: what a repetition could double, a created run, is looked
        # for again afterwards (see `record`).
        self._pool = PoolManager(
            headers=make_headers(basic_auth=login, user_agent="trainyard"),
            timeout=Timeout(connect=connect_s, read=read_s),
            retries=Retry(
                total=TRIES - 1,
                backoff_factor=0.3,
                status_forcelist=(429, 502, 503, 504),
                allowed_methods=None,
                raise_on_status=False,
            ),
        )

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    # experiments and runs

    def experiment_id(self, name: str) -> str:
        """Return the id of the experiment called *name*, making it where there is none."""
        found = self._get("experiments/get-by-name", {"experiment_name": name}, missing=True)
        if not found:
            try:
                made = self._post("experiments/create", {"name": name})
            except ExistsError:  # another task was faster
                found = self._get("experiments/get-by-name", {"experiment_name": name})
            else:
                return str(made["experiment_id"])
        experiment = found["experiment"]
        if experiment["lifecycle_stage"] != "active":
            self._post("experiments/restore", {"experiment_id": experiment["experiment_id"]})
        return str(experiment["experiment_id"])

    def find_runs(self, experiment_id: str, tags: Mapping[str, str]) -> list[Json]:
        """Return the active runs of an experiment that carry all *tags*."""
        conditions = (f"tags.`{name}` = {_quoted(value)}" for name, value in tags.items())
        answer = self._post(
            "runs/search",
            {
                "experiment_ids": [experiment_id],
                "filter": " AND ".join(conditions),
                "run_view_type": "ACTIVE_ONLY",
                "max_results": 100,
            },
        )
        return list(answer.get("runs", []))

    def create_run(
        self, experiment_id: str, name: str, start_ms: int, tags: Mapping[str, str]
    ) -> Json:
        """Make a run and return it."""
        body = {
            "experiment_id": experiment_id,
            "run_name": name,
            "start_time": start_ms,
            "tags": _pairs(tags),
        }
        return dict(self._post("runs/create", body)["run"])

    def update_run(self, run_id: str, *, status: str, end_ms: int | None, name: str) -> None:
        """Set how a run stands: RUNNING, FINISHED, FAILED or KILLED."""
        body = {"run_id": run_id, "status": status, "run_name": name}
        self._post("runs/update", body if end_ms is None else {**body, "end_time": end_ms})

    def run(self, run_id: str) -> Json:
        """Return a run; raises ``MissingError`` when the server has no such run."""
        return dict(self._get("runs/get", {"run_id": run_id})["run"])

    def run_status(self, run_id: str) -> str:
        """Return how a run stands; raises ``MissingError`` when the server has no such run."""
        return str(self.run(run_id)["info"]["status"])

    def delete_run(self, run_id: str) -> None:
        """Move a run to the server's trash."""
        self._post("runs/delete", {"run_id": run_id})

    # content

    def log(
        self,
        run_id: str,
        *,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        metrics: Sequence[Json],
    ) -> None:
        """Log everything in as few calls as the server's limits allow.

        *metrics* are ``{"key", "value", "timestamp", "step"}``. A param or metric that is there
        already with the same value stays as it is.
        """
        for batch in _batches(_pairs(params), _pairs(tags), list(metrics)):
            self._post("runs/log-batch", {"run_id": run_id, **batch})

    def log_dataset(self, run_id: str, dataset: Mapping[str, str], context: str) -> None:
        """Name the data set a run read; *context* says for what."""
        tag = {"key": "mlflow.data.context", "value": context}
        self._post(
            "runs/log-inputs",
            {"run_id": run_id, "datasets": [{"dataset": dict(dataset), "tags": [tag]}]},
        )

    def put_artifact(self, run: Json, name: str, content: bytes | Path) -> None:
        """Store *content* as the artifact *name* of *run*, through the server.

        Raises ``ConfigurationError`` when the server does not serve artifacts itself.
        """
        root = str(run["info"]["artifact_uri"])
        if not root.startswith(_ARTIFACTS):
            raise ConfigurationError(
                f"tracking server {self.url} keeps artifacts at {root} and does not serve them: "
                "start it with --artifacts-destination"
            )
        path = quote(f"{urlsplit(root).path.strip('/')}/{name}")
        address = f"{self.url}/api/2.0/mlflow-artifacts/artifacts/{path}"
        body = content if isinstance(content, bytes) else content.read_bytes()
        headers = {**self._pool.headers, "content-type": "application/octet-stream"}
        self._send("PUT", address, body=body, headers=headers)

    # inside

    def _get(self, call: str, fields: Mapping[str, str], *, missing: bool = False) -> Json:
        try:
            return self._json("GET", call, fields=fields)
        except MissingError:
            if missing:
                return {}
            raise

    def _post(self, call: str, body: Json) -> Json:
        headers = {**self._pool.headers, "content-type": "application/json"}
        return self._json("POST", call, body=json.dumps(body).encode(), headers=headers)

    def _json(self, method: str, call: str, **options: Any) -> Json:
        answer = self._send(method, f"{self.url}/api/2.0/mlflow/{call}", **options)
        try:
            return dict(json.loads(answer.data))
        except ValueError as error:
            raise UnavailableError(
                f"tracking server {self.url} answered {call} with something that is no JSON: "
                f"{answer.data[:200]!r}; is it an MLflow server?"
            ) from error

    def _send(self, method: str, address: str, **options: Any) -> BaseHTTPResponse:
        from urllib3.exceptions import HTTPError

        try:
            answer = self._pool.request(method, address, **options)
        except HTTPError as error:
            raise UnavailableError(
                f"tracking server {self.url} does not answer ({_root_cause(error)}): check that "
                "it runs and that mlflow_url in the settings file is its address"
            ) from error
        if answer.status >= 400:  # noqa: PLR2004  # HTTP's own limit between success and error
            raise self._refusal(answer, address)
        return answer

    def _refusal(self, answer: BaseHTTPResponse, address: str) -> TrainyardError:
        code, message = _complaint(answer.data)
        where = f"tracking server {self.url}"
        if code == "RESOURCE_ALREADY_EXISTS":
            return ExistsError(f"{where}: {message}")
        if code == "RESOURCE_DOES_NOT_EXIST":
            return MissingError(f"{where}: {message}")
        if any(sign in message.lower() for sign in _COLLISIONS):
            return CollisionError(f"{where}: {message}")
        if answer.status in {401, 403}:
            return ConfigurationError(
                f"{where} refuses this client (HTTP {answer.status}: {message}): check user and "
                "password in mlflow_url, and the server's --allowed-hosts"
            )
        if answer.status == 429 or answer.status >= 500:  # noqa: PLR2004
            return UnavailableError(f"{where} fails (HTTP {answer.status}: {message})")
        call = urlsplit(address).path
        return ConfigurationError(f"{where} refuses {call} (HTTP {answer.status}: {message})")


class MissingError(ConfigurationError):
    """The tracking server has no such thing."""


class CollisionError(UnavailableError):
    """Another task records the same run at this moment; doing it again settles it."""


class ExistsError(ConfigurationError):
    """The tracking server has that already."""


def _complaint(data: bytes) -> tuple[str, str]:
    try:
        told = json.loads(data)
        return str(told.get("error_code", "")), str(told.get("message", ""))[:500]
    except (ValueError, AttributeError):
        return "", data[:200].decode("utf-8", "replace")


def _root_cause(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    return str(reason if reason is not None else error).rsplit(">: ", 1)[-1].rsplit(": ", 1)[-1]


def _quoted(value: str) -> str:
    """Return *value* as a literal of MLflow's filter language, which has no escape."""
    quote_with = '"' if "'" in value else "'"
    if quote_with in value:
        raise ConfigurationError(f"{value!r} holds both kinds of quotes: rename it")
    return f"{quote_with}{value}{quote_with}"


def _pairs(values: Mapping[str, str]) -> list[Json]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _batches(params: list[Json], tags: list[Json], metrics: list[Json]) -> Iterator[Json]:
    """Cut into calls within MLflow's limits; the first carries params, tags and metrics."""
    first = True
    while first or params or tags or metrics:
        first = False
        batch: Json = {"params": params[:_PARAMS_AT_ONCE], "tags": tags[:_TAGS_AT_ONCE]}
        room = _ENTITIES_AT_ONCE - len(batch["params"]) - len(batch["tags"])
        batch["metrics"] = metrics[: min(room, _METRICS_AT_ONCE)]
        params, tags = params[_PARAMS_AT_ONCE:], tags[_TAGS_AT_ONCE:]
        metrics = metrics[len(batch["metrics"]) :]
        yield batch
