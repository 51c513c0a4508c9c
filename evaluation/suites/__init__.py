"""Evaluation suites: one file each, imported when used."""
