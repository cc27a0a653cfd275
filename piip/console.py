"""What every verb does with its mistakes and its logs. Imports nothing heavy: `--help` does not wait for PyTorch."""

import logging
import sys
from collections.abc import Callable


def setup_logging() -> None:
    """Logs to stderr, one line each; libraries only when something is wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)


def guarded(action: Callable[[], int]) -> int:
    """Run a verb: what the user can put right becomes one line on stderr and exit code 1, our own mistakes stay tracebacks.

    Args:
        action: Returns the exit code. Its ValueError (input), OSError (files; ConnectionError: MLflow, Ray) are the user's.
    """
    try:
        return action()
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130
