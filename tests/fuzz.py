"""Reads damaged data until a time is over, other damage every time: python tests/fuzz.py --minutes 10 yolo voc

Minutes are of CPU, for each reader. Prints how many examples each reader took; a reader that raises what is not ours, or a check that
says other than training, ends it with the smallest example. No part of `make test`, which tries 25 examples a reader.
"""

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))

from fuzzing import READERS, damage, read_damaged
from hypothesis import HealthCheck, given, settings

BATCH = 200
"""Examples between two looks at the clock."""


def fuzz(reader: str, seconds: float) -> int:
    """Fuzzes one reader for so many seconds of CPU; returns how many examples it took."""
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        root.mkdir()
        source = READERS[reader](root)

        @settings(
            max_examples=BATCH, deadline=None, derandomize=False, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(what=damage())
        def batch(what) -> None:
            nonlocal count
            count += 1
            read_damaged(reader, root, source, what)

        while time.process_time() < seconds:
            batch()
    return count


def main() -> None:
    """Fuzzes the readers that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(READERS)}; none: all")
    parser.add_argument("--minutes", type=float, default=10.0, help="of CPU, for each reader (10)")
    options = parser.parse_args()
    if unknown := [name for name in options.readers if name not in READERS]:
        parser.error(f"no reader {unknown[0]!r}. There is: {', '.join(READERS)}")
    logging.disable(logging.WARNING)  # every example would say what was left out
    for reader in options.readers or READERS:
        begun = time.process_time()
        count = fuzz(reader, begun + 60 * options.minutes)
        print(f"{reader}: {count} examples in {(time.process_time() - begun) / 60:.1f} CPU minutes", flush=True)


if __name__ == "__main__":
    main()
