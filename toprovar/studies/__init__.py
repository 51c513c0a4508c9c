"""Questions about the method, each answered by one file with a measurement; each defines ``STUDY``."""
