"""What is wrong with MLflow's address, said before MLflow is asked: it would retry for minutes what can never work."""

import os
import re
import socket
import sqlite3
from pathlib import Path
from urllib.parse import urlsplit

PATIENCE_S = 10.0
"""How long a database's host may take to answer at all."""
DATABASES = {"sqlite": None, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Dialects that MLflow speaks, and where their servers listen."""
PACKAGES = {"psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""Modules that a package of another name brings."""

# libpq would wait without end for a server that accepts and never answers
os.environ.setdefault("PGCONNECT_TIMEOUT", "30")


class AddressError(ValueError):
    """This address cannot be used, whatever time is given to it."""


def check(uri: str) -> None:
    """Refuses an address that can never work; asks no server.

    Raises:
        AddressError: It is no address of a database, its driver is missing, or its SQLite file cannot be opened.
    """
    if _dialect(uri) not in DATABASES:
        return  # a server's, or a kind of MLflow's own
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except ArgumentError as error:
        raise AddressError(f"{_named(uri)} is no address of a database: {' '.join(str(error).split())}") from None
    except ModuleNotFoundError as error:
        package = PACKAGES.get(str(error.name), error.name)
        raise AddressError(
            f"{_named(uri)} needs the database driver {error.name}, which is not installed: pip install {package}. "
            "Or give the address of an MLflow server over that database: http://HOST:PORT"
        ) from None
    if (file := sqlite_file(uri)) and file.exists():
        _open(file, uri)


def reach(uri: str) -> None:
    """Asks whether a database's server is there at all.

    Raises:
        OSError: It does not answer within seconds.
    """
    port = DATABASES.get(_dialect(uri))
    if port is None:
        return
    from sqlalchemy import make_url

    url = make_url(uri)
    if url.host:
        socket.create_connection((url.host, url.port or port), PATIENCE_S).close()


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite address; None of any other (a database in memory too)."""
    if _dialect(uri) != "sqlite":
        return None
    from sqlalchemy import make_url

    database = make_url(uri).database
    return Path(database) if database and database != ":memory:" else None


def keep_off_proxies(uri: str) -> None:
    """Lets nothing of this machine's own go through a proxy: $http_proxy means the network's, and does not know our ports."""
    host = urlsplit(uri).hostname
    if _dialect(uri) in ("http", "https") and host in ("localhost", "127.0.0.1", "::1"):
        kept = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        if host not in kept.split(","):
            os.environ["no_proxy"] = ",".join(filter(None, (kept, host)))


def proxy_of(uri: str) -> str:
    """The proxy that an address is asked through, without its password; empty where there is none."""
    from requests.utils import get_environ_proxies, select_proxy

    proxy = select_proxy(uri, get_environ_proxies(uri)) if _dialect(uri) in ("http", "https") else None
    return without_password(proxy or "")


def without_password(text: str) -> str:
    """A text with addresses in it, as it may be printed."""
    return re.sub(r"//[^/@\s]*@", "//***@", text)


def _dialect(uri: str) -> str:
    """`postgresql` of `postgresql+psycopg://...`."""
    return uri.partition(":")[0].partition("+")[0]


def _open(file: Path, uri: str) -> None:
    """MLflow tries for minutes to open what is no database."""
    try:
        database = sqlite3.connect(file)
        try:
            database.execute("pragma schema_version").fetchone()
        finally:
            database.close()
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):  # somebody writes; MLflow waits for that
            raise AddressError(f"{_named(uri)}: {file} cannot be opened: {error}") from None
    except sqlite3.DatabaseError as error:
        raise AddressError(f"{_named(uri)}: {file} is no database of MLflow's: {error}") from None


def _named(uri: str) -> str:
    variable = "MLFLOW_TRACKING_URI=" if os.environ.get("MLFLOW_TRACKING_URI") == uri else "MLflow at "
    return f"{variable}{without_password(uri)}"
