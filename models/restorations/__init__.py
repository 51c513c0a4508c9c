"""What becomes of tokens that a layer does not compute, one way a file; each defines ``RESTORATION``."""
