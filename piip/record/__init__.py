"""What happened in a trial, on disk first."""
