"""Data made here: drawn objects on photographs, trees on aerial ones."""
