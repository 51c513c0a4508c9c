"""What a prompt's depth may be decided by, one statistic a file, found by its name; each defines ``STATISTIC``."""
