"""Maps or tokens to losses or predictions."""
