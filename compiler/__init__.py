"""Turns a model and a plan into a deployment's graphs: trace, passes, export, build, verify."""
