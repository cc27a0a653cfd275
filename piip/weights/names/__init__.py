"""Names of parameters in files of others."""
