"""The main job: calibrates, plans, exports, builds and verifies.

Calibration, compiler and runtime do not know one another; these files introduce them.
"""
