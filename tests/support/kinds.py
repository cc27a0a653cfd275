"""Every kind of data there is."""

from typing import get_args

from piip.spec import Data

DATA = [kind() for kind in get_args(get_args(Data)[0])]
"""A spec of each, as it stands without changes."""
