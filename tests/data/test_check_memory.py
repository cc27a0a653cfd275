"""Odd documents and images take no memory to speak of, whether they are refused or trained on."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "support" / "odd_memory.py"


@pytest.mark.slow
def test_odd_data_of_every_kind_take_less_than_a_gigabyte(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    tried, good, kilobytes = map(int, done.stdout.split())
    assert tried > 600
    assert 40 < good < tried
    assert kilobytes < 1_000_000
