"""One policy a file, found by its name; each defines ``POLICY``."""
