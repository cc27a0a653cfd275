"""From a decoded image and its annotations to what a network sees."""
