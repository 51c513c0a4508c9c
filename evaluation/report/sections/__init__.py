"""Sections of the report, one a file: each has figures that take artefacts, and `make`, which tells what they show."""
