"""Whose locks a mounted folder has."""

from pathlib import Path

import pytest

from piip.sweeps import mount
from piip.sweeps.mount import keeps_locks_to_itself

LINES = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 27 0:40 / /home rw,relatime shared:5 - nfs4 server:/home rw,vers=4.2,hard,local_lock=none,addr=10.0.0.1
31 27 0:41 / /old\\040home rw,relatime - nfs server:/old rw,vers=3,nolock,local_lock=all
32 27 0:42 / /flock rw - nfs server:/flock rw,local_lock=flock
33 27 0:43 / /scratch rw,relatime - lustre mgs@tcp:/scratch rw,localflock
34 27 0:44 / /lustre rw,relatime - lustre mgs@tcp:/lustre rw,flock
35 31 0:45 / /old\\040home/new rw - nfs4 server:/new rw,local_lock=none
"""


@pytest.fixture(autouse=True)
def mounts(monkeypatch, tmp_path):
    monkeypatch.setattr(mount, "MOUNTS", tmp_path / "mountinfo")
    # the last one's name is no UTF-8
    mount.MOUNTS.write_bytes(LINES.encode() + b"36 27 0:46 / /media/caf\xe9 rw - vfat /dev/sdb rw\n")


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("/home/me/runs", ""),
        ("/var/runs", ""),
        ("/lustre/runs", ""),
        ("/old home/new/runs", ""),
        ("/old home/runs", "nfs at /old home, mounted with nolock"),
        ("/flock", "nfs at /flock, mounted with local_lock=flock"),
        ("/scratch/runs", "lustre at /scratch, mounted with localflock"),
    ],
)
def test_the_nearest_mount_says_whose_they_are(folder, said):
    assert keeps_locks_to_itself(Path(folder)) == said


def test_where_nobody_says_nothing_is_said():
    mount.MOUNTS.unlink()

    assert keeps_locks_to_itself(Path("/home")) == ""
