"""Executes a deployment: the loop over scales, and one backend file an engine."""
