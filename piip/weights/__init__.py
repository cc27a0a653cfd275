"""Weights that others wrote: read without running a pickle's code, fetched by name, fitted into our networks with a report."""
