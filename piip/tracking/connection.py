"""The way to MLflow: an SQLite file of our own or a server, and one exception for all its ways of not being there."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

from piip.durable import locked
from piip.home import home
from piip.tracking import address, moved

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

# What a user sets stands. MLflow's own defaults retry for four minutes inside the call (measured), our callers retry
# themselves; 30 s is above the slowest batch of 1000 metrics seen on a loaded SQLite file (8 s).
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for the one JSON document

# Faults of the request; every other code is the server's trouble, which may pass.
_REQUEST_FAULTS = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}


class UnreachableError(ConnectionError):
    """MLflow did not answer, or not as it should; the same call may work later."""


class RefusedError(ValueError):
    """MLflow understood the request and refuses it; it would refuse it again.

    Args:
        code: MLflow's error code, e.g. `RESOURCE_DOES_NOT_EXIST`.
        reason: What it says.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"MLflow refuses: {reason}")
        self.code = code


class Connection:
    """An MLflow client that is made at the first call, because importing MLflow takes 1-4 s.

    Args:
        uri: MLflow's tracking URI.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @property
    def where(self) -> str:
        """The URI as it may be printed: without a password."""
        return address.without_password(self.uri)

    @cached_property
    def _client(self) -> "MlflowClient":
        address.check(self.uri)
        address.keep_off_proxies(self.uri)
        try:
            address.reach(self.uri)
        except OSError as error:
            self._unreachable(error)
        from mlflow import MlflowClient

        database = address.sqlite_file(self.uri)
        if database is None:
            return MlflowClient(self.uri)
        database.parent.mkdir(parents=True, exist_ok=True)
        new = not database.exists()
        if new:
            logger.info("creating MLflow's database %s (once, a few seconds)", database)
            for noisy in ("mlflow.store.db.utils", "alembic.runtime.migration"):
                logging.getLogger(noisy).setLevel(logging.WARNING)
        # The schema is made by whoever comes first; two at once would collide in the migrations.
        with locked(database.with_name(database.name + ".lock")):
            if not new and database == home() / "mlflow.db":
                moved.put_right(database)
            client = MlflowClient(self.uri)
            client.search_experiments(max_results=1)
        return client

    @contextmanager
    def _talking(self) -> Iterator["MlflowClient"]:
        """The client; MLflow's many ways of not being there become one."""
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield self._client
        except MlflowException as error:
            if error.error_code in _REQUEST_FAULTS:
                raise RefusedError(error.error_code, " ".join(error.message.split())) from error
            self._unreachable(error)
        except (RequestException, SQLAlchemyError) as error:
            self._unreachable(error)

    def _unreachable(self, error: Exception) -> NoReturn:
        reason = address.without_password(" ".join(str(error).split()))
        if "Connection refused" in reason or isinstance(error, ConnectionRefusedError):
            reason = "connection refused"
        elif "timed out" in reason:
            reason = f"no answer within {os.environ['MLFLOW_HTTP_REQUEST_TIMEOUT']} s"
        else:
            reason = reason.rpartition("Caused by ")[2]
        if proxy := address.proxy_of(self.uri):
            reason = f"{reason[:300]} (asked through the proxy {proxy}; what NO_PROXY names is asked without)"
        raise UnreachableError(
            f"MLflow at {self.where}: {reason[:500]}. Nothing is lost: what runs record is in "
            f"{home() / 'journals'}; when the server is back, `python -m piip.sync` delivers it."
        ) from error
