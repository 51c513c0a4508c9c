"""Runs TensorRT engines: preflight, one context a profile, a cache that engines write into, CUDA graphs."""
