"""Operators written twice: plain PyTorch for the meaning, compiled code in `csrc/` for the speed."""
