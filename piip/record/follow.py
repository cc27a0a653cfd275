"""Watching a journal that somebody else writes."""

from pathlib import Path

from piip.record.events import Seen, read_doing, read_events


class Follower:
    """What a journal adds up to so far; each look reads only what was appended since the one before.

    Args:
        folder: The journal's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.seen = Seen()
        self.offset = 0
        """Bytes read: up to the end of a whole line, which no writer takes back."""
        self.doing = ""
        """What the trial is at between its steps."""

    def look(self) -> None:
        """Take in what is new."""
        for event, after in read_events(self.folder, self.offset):
            self.seen.add(event)
            self.offset = after
        self.doing = read_doing(self.folder)
