"""Image to maps, high to low resolution."""
