"""Rows by name, their cost as a list, and what cannot be trained: needs neither Ray nor, to list names, PyTorch."""
