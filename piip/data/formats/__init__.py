"""Data sets: files on disk to samples, one file a kind of annotation."""
