"""Whether a lock on a shared folder is seen by other hosts, as the way it is mounted says."""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
OWN_LOCKS = re.compile(r"(?:^|,)(nolock|local_lock=(?:all|flock)|localflock)(?:,|$)")
"""NFS and Lustre with these options keep a host's locks to itself."""


def keeps_locks_to_itself(folder: Path) -> str:
    """What says so, in words for who shares the folder; empty where locks are everybody's, or nothing is known.

    Args:
        folder: Need not be there yet.
    """
    try:
        lines = MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""  # not Linux
    # a later mount covers an earlier one of the same place
    found = [mount for mount in map(_mount, lines) if folder.resolve().is_relative_to(mount[0])]
    place, kind, options = (
        max(enumerate(found), key=lambda at: (len(at[1][0].parts), at[0]))[1] if found else (folder, "", "")
    )
    said = OWN_LOCKS.search(options)
    return f"{kind} at {place}, mounted with {said[1]}" if said else ""


def _mount(line: str) -> tuple[Path, str, str]:
    """Place, kind and options of a line of proc_pid_mountinfo(5)."""
    before, _, after = line.partition(" - ")
    kind, _, options = after.split(" ", 2)
    place = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), before.split(" ")[4])
    return Path(place), kind, options
