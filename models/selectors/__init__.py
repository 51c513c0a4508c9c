"""What ranks the tokens of a scale, one way a file, found by its name; each defines ``SELECTOR``."""
