"""Rows to Ray and back. Nothing of Ray is imported before this."""

import os

# Ray Tune reads this as it is imported. Its half second is for trials of seconds: here a step of its loop waits for nothing but
# the next line of progress, and on a machine that trains takes a second now and then
os.environ.setdefault("TUNE_WARN_THRESHOLD_S", "30")
