"""Triton kernels of the runtime with their launchers; the plain version of each is a method of `PlainOps`."""
