"""A home that was moved, with the MLflow database in it: addresses of files that the database keeps follow."""

import logging
import sqlite3
import urllib.parse
from pathlib import Path

logger = logging.getLogger(__name__)

FILES = "mlartifacts"
"""The folder beside the database that its files lie in."""
KEPT = {"experiments": "artifact_location", "runs": "artifact_uri"}
"""Where MLflow keeps absolute addresses of them: table -> column."""


def put_right(database: Path) -> None:
    """Lets the addresses of a home's own files begin where the home is now; those of files elsewhere stay.

    Args:
        database: `mlflow.db` of a home; its files are under `mlartifacts/` beside it.
    """
    connection = sqlite3.connect(database, timeout=30)
    try:
        for before in _places_before(connection, database.parent):
            logger.warning("MLflow's files of this home, noted at %s, are at %s now", before, database.parent / FILES)
            _move(connection, before.as_uri(), (database.parent / FILES).as_uri())
        connection.commit()
    except sqlite3.OperationalError as error:
        logger.warning("%s: what it notes of moved files cannot be put right: %s", database, error)
    finally:
        connection.close()


def _places_before(connection: sqlite3.Connection, home: Path) -> list[Path]:
    """Folders of that name, under another home, that the database notes."""
    known = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
    noted = {
        Path(urllib.parse.unquote(str(address).removeprefix("file://"))).parents
        for table, column in KEPT.items()
        if table in known
        for (address,) in connection.execute(f"select distinct {column} from {table} where {column} like 'file:///%'")
    }
    places = {place for parents in noted for place in parents if place.name == FILES}
    return sorted(place for place in places if place.resolve() != (home / FILES).resolve())


def _move(connection: sqlite3.Connection, before: str, now: str) -> None:
    for table, column in KEPT.items():
        connection.execute(
            f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?",
            (now, len(before) + 1, len(before) + 1, f"{before}/"),
        )
