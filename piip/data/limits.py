"""What no real data reach. Numbers beyond are refused by name before a decoder would fill the memory with them."""

MOST_PIXELS = 178_956_970
"""The most pixels an image may have: what Pillow unpacks at most, so that a small file cannot fill the memory. Decoded, they take some two
gigabytes."""
FARTHEST = 100_000
"""Pixels that a box or a polygon may reach out of its image."""
LONGEST = 1_000_000
"""Pixels around a polygon; rasterising takes some hundred bytes for each of them, wherever it is cut off afterwards."""
ID_BITS = 63
"""Ids are 64-bit numbers with a sign in Parquet files and tables."""
