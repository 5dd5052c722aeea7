"""What the store needs from a database, and the two that give it: SQLite and PostgreSQL."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from trainyard.errors import ConfigurationError, TrainyardError, UnavailableError

Params = Mapping[str, Any]
_WORD = r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*"
_PLAIN_URL = re.compile(rf"postgres(ql)?://({_WORD}(:{_WORD})?@)?[^@\s#]*")  # RFC 3986, 3.2.1
MIGRATE = "python -m trainyard.store migrate"


class Engine(ABC):
    """One connection: transactions, named parameters, errors a user can act on.

    Not for use by several threads at once: open one store per thread.
    """

    kind: str
    """``sqlite`` or ``postgresql``."""
    label: str
    """The database as an error names it: without a password."""

    @abstractmethod
    def connect(self, *, create: bool = False) -> None:
        """Connect unless connected. With *create* a missing SQLite file is made.

        Raises ``UnavailableError`` or ``ConfigurationError``.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connection; closing twice is fine."""

    @abstractmethod
    def fetch(self, sql: str, params: Params) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run one statement with ``:name`` parameters; return column names and rows."""

    @abstractmethod
    def fetch_many(self, sql: str, rows: Sequence[Params]) -> None:
        """Run one statement once per element of *rows*."""

    @abstractmethod
    def lock_schema(self) -> None:
        """Inside a transaction, wait until no other process migrates this database."""

    @abstractmethod
    def translate(self, error: Exception) -> TrainyardError | None:
        """Return the error a user can act on for a driver's *error*, or None if it is no such."""

    @abstractmethod
    def _begin(self) -> None: ...

    @abstractmethod
    def _end(self, *, commit: bool) -> None: ...

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing: what the block did is kept only when it ends without an error."""
        with self.guard():
            self._begin()
        try:
            yield
            with self.guard():
                self._end(commit=True)
        except BaseException:
            self._end(commit=False)
            raise

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Turn driver errors into Trainyard's own; everything else passes."""
        try:
            yield
        except TrainyardError:
            raise
        except Exception as error:
            known = self.translate(error)
            if known is None:
                raise
            raise known from error

    def no_schema(self, detail: str) -> ConfigurationError:
        """Return the error for a database without the tables a statement needs."""
        return ConfigurationError(
            f"results database {self.label} lacks the tables of this Trainyard ({detail}): "
            f"run `{MIGRATE} URL`"
        )

    def contradiction(self, detail: str) -> ConfigurationError:
        """Return the error for rows the schema refuses; nothing of the transaction is kept."""
        return ConfigurationError(
            f"results database {self.label} refuses the row, nothing of it was stored: {detail}. "
            "A study is stored before its runs; a metric, window or epoch appears once per run"
        )

    def full(self, detail: str) -> UnavailableError:
        """Return the error for a full disk."""
        return UnavailableError(
            f"results database {self.label}: no space left ({detail}); nothing of this "
            "transaction was stored. Free disk space and run the task again: storing is repeatable"
        )

    def read_only(self, detail: str) -> ConfigurationError:
        """Return the error for a database that cannot be written."""
        return ConfigurationError(
            f"results database {self.label} is read-only ({detail}): give its file and folder, or "
            "the role, write permission, or point results_url elsewhere"
        )

    def busy(self, detail: str) -> UnavailableError:
        """Return the error for a lock that was not given up in time."""
        return UnavailableError(
            f"results database {self.label} is locked by another process ({detail}); nothing of "
            "this transaction was stored. Run the task again, and end whoever holds the lock"
        )


def make_engine(url: str, timeout_s: float) -> Engine:
    """Return the engine for *url*, not connected.

    ``sqlite:////absolute/path`` (three slashes: relative) or ``postgresql://user:password@host/name``
    with anything libpq understands after ``?``. Raises ``ConfigurationError`` for other forms.
    """
    if url.startswith(("postgres:", "postgresql:")) and not _PLAIN_URL.fullmatch(url):
        # Here, because a driver quotes what it cannot read: a piece of the password.
        raise ConfigurationError(
            f"results_url = {redact(url)!r}: must be postgresql://user:password@host:5432/name; in "
            "user and password write @ / : # ? % and blanks percent-encoded, such as %40 for @"
        )
    parts = _split(url)
    if parts.scheme == "sqlite" and not parts.netloc and len(parts.path) > 1:
        from trainyard.store.sqlite import SqliteEngine

        return SqliteEngine(unquote(parts.path[1:]), timeout_s)
    if parts.scheme in {"postgresql", "postgres"}:
        from trainyard.store.postgres import PostgresEngine

        return PostgresEngine(url, timeout_s)
    raise ConfigurationError(
        f"results_url = {redact(url)!r}: choose from sqlite:////absolute/path.db and "
        "postgresql://user:password@host:5432/name"
    )


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")  # an address of IPv6 without its end


def redact(url: str) -> str:
    """Return *url* with every password in it replaced by ``***``."""
    hidden = re.sub(r"(?<=//)([^/@:\s]*):(.*)@", r"\1:***@", url)
    return re.sub(r"(?i)(password=)[^&\s]*", r"\1***", hidden)
