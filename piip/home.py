"""Where things are on this machine: the folders the `PIIP_*` environment variables name."""

import os
from pathlib import Path


def home() -> Path:
    """The absolute folder everything a run writes lives under: `$PIIP_HOME`, or `runs/` in the checkout.

    An installed package has no checkout: there it is `runs/` in the folder that the command is typed in.
    """
    given = os.environ.get("PIIP_HOME")
    if not given:
        return (package_root() if in_checkout() else Path.cwd()) / "runs"
    path = Path(given).expanduser()
    if not path.is_absolute():
        raise ValueError(
            f"PIIP_HOME must be absolute (Ray workers run elsewhere), got {given!r}. Try: export PIIP_HOME=$PWD/{given}"
        )
    return path


def data_root() -> Path:
    """The folder that holds dataset folders such as `coco/`: `$PIIP_DATA`, or `data/` under `home()`."""
    given = os.environ.get("PIIP_DATA")
    return Path(given).expanduser().absolute() if given else home() / "data"


def storage() -> Path:
    """Where checkpoints go: `$PIIP_STORAGE`, or `storage/` under `home()`. Must be seen by every node of the cluster."""
    given = os.environ.get("PIIP_STORAGE")
    if given and "://" in given:
        raise ValueError(
            f"PIIP_STORAGE={given!r} is an address; checkpoints need a mounted path that every node sees, e.g. /mnt/piip"
        )
    return Path(given).expanduser().absolute() if given else home() / "storage"


def tracking_uri() -> str:
    """The MLflow server: `$MLFLOW_TRACKING_URI`, or an SQLite file under `home()`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(home() / "mlflow.db")


def sqlite_uri(file: Path) -> str:
    """A database file as SQLAlchemy's URI, which has uses of its own for two characters of a path."""
    quoted = str(file).replace("%", "%25").replace("?", "%3F")
    # of a `sqlite:///` MLflow makes the folder, with the quotes in its name
    return f"sqlite:///{quoted}" if quoted == str(file) else f"sqlite+pysqlite:///{quoted}"


def journal_dir(trial_key: str) -> Path:
    """The folder of one trial's journal: what is known of it before (and whether or not) MLflow hears of it."""
    return home() / "journals" / trial_key


def checkpoint_dir(trial_key: str) -> Path:
    """The folder of one trial's checkpoints."""
    return storage() / trial_key


def package_root() -> Path:
    """The folder that holds the `piip` package."""
    return Path(__file__).resolve().parent.parent


def in_checkout() -> bool:
    """Whether the package runs from a checkout (or a copy of one, as a submitted job does), rather than installed."""
    return (package_root() / "pyproject.toml").is_file()


def shipped(folder: str) -> Path:
    """A folder that lies beside the package in a checkout and inside it where it is installed: `experiments` or `csrc`."""
    place = package_root() / folder if in_checkout() else package_root() / "piip" / folder
    if not place.is_dir():
        raise ValueError(f"{folder}/ not found: {place}. Install piip again, or run it from a whole checkout.")
    return place
