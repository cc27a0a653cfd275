"""How branches meet: interactions between blocks, the merge at the end."""
