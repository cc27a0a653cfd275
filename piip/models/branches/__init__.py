"""One image size and the network that sees it."""
