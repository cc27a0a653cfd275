"""Damaged files of every format: the check and training agree on what is good, and nothing but our own error comes of the rest.

`make fuzz` does the same for as long as one likes.
"""

from pathlib import Path

import pytest
from fuzzing import READERS, damage, read_damaged
from hypothesis import given, settings

from piip.data.sources import Source


@pytest.fixture(scope="module", params=READERS)
def whole(request, tmp_path_factory) -> tuple[str, Path, Source]:
    """Good data of a format."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, READERS[request.param](folder)


@settings(max_examples=25)
@given(what=damage())
def test_a_damaged_file_is_read_or_refused_by_the_check_and_by_training_alike(whole, what):
    read_damaged(*whole, what)
