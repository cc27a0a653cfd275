"""Bring what runs recorded to MLflow, each metric and step exactly once however often this is typed.

Training never waits for MLflow: it writes to journals under $PIIP_HOME/journals, and a background thread delivers them.
Run this after the server was down, or after a machine died. A run missing in MLflow is made again from its journal; one
that was deleted there is skipped. The server is $MLFLOW_TRACKING_URI, or $PIIP_HOME/mlflow.db.

Examples:
  python -m piip.sync
  MLFLOW_TRACKING_URI=http://mlflow:5000 python -m piip.sync --timeout 600 --json
"""

import json as json_module
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from piip.console import run_verb, setup_logging
from piip.home import home
from piip.options import Seconds
from piip.record.runs import read_record
from piip.tracking import address
from piip.tracking.connection import UnreachableError
from piip.tracking.delivery import deliver, journals, read_delivered
from piip.tracking.store import Store
from piip.tracking.writer import RunDeletedError

RETRY_S = 1.0


@dataclass
class Synced:
    """What became of one journal."""

    trial_key: str
    name: str
    run_id: str | None
    events: int
    """Delivered by this call."""
    state: str
    """`delivered`, `up to date`, `deleted` (the run was deleted in MLflow: skipped) or `failed`."""
    detail: str = ""


def sync(store: Store, root: Path, timeout: float) -> list[Synced]:
    """Delivers every journal under `root`; asks an MLflow that does not answer again until `timeout` seconds are over."""
    deadline = time.monotonic() + timeout
    return [_sync_one(folder, store, deadline) for folder in journals(root)]


def main(json: bool = False, timeout: float = 60) -> int:
    """Run the verb; returns the exit code.

    Args:
        json: Print one JSON document instead of lines.
        timeout: Seconds to go on trying while MLflow does not answer.
    """
    setup_logging()
    store = Store()
    address.check(store.uri)
    results = sync(store, home() / "journals", timeout)
    delivered, failed = sum(r.events for r in results), [r for r in results if r.state == "failed"]
    if json:
        document = {
            "uri": store.where,
            "events": delivered,
            "failed": len(failed),
            "runs": [asdict(r) for r in results],
        }
        print(json_module.dumps(document, indent=1))
    else:
        for result in results:
            print(_line(result))
        print(f"{delivered} events of {len(results)} runs delivered to {store.where}, {len(failed)} runs failed")
    for reason in dict.fromkeys(r.detail for r in failed):
        print(f"error: {reason}", file=sys.stderr)
    return 1 if failed else 0


def _sync_one(folder: Path, store: Store, deadline: float) -> Synced:
    result = Synced(folder.name, "", None, 0, "failed")
    try:
        result.name = read_record(folder).name
        result.events = _patiently(lambda: deliver(folder, store), deadline)
        result.state = "delivered" if result.events else "up to date"
        result.run_id = read_delivered(folder, store).run_id
    except RunDeletedError as error:
        result.state, result.detail = "deleted", str(error)
    except BlockingIOError:
        result.detail = f"{folder}: another process is still delivering this journal. Run piip.sync again later."
    except (OSError, ValueError, TypeError, LookupError) as error:  # what a damaged journal raises; the others go on
        result.detail = str(error) if isinstance(error, UnreachableError) else f"{folder}: {error}"
    return result


def _patiently(action: Callable[[], int], deadline: float) -> int:
    """Tries again while MLflow does not answer or another sender has its turn."""
    while True:
        try:
            return action()
        except (UnreachableError, BlockingIOError):
            if time.monotonic() + RETRY_S > deadline:
                raise
            time.sleep(RETRY_S)


def _line(result: Synced) -> str:
    what = {"delivered": f"{result.events} events", "deleted": f"skipped: {result.detail}"}.get(
        result.state, result.state
    )
    return f"{result.run_id or '-':32}  {result.name or result.trial_key:40}  {what}"


@dataclass
class Options:
    """What `python -m piip.sync` is told."""

    json: bool = False
    """Print one JSON document instead of lines."""
    timeout: Seconds = 60
    """Seconds to go on trying while MLflow does not answer."""


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    return run_verb(
        Options,
        lambda options: main(options.json, options.timeout),
        prog="python -m piip.sync",
        description=__doc__,
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(cli())
