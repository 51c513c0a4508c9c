"""Measures a model over prompts (`recorder`, `calibrate`) and decides what to leave out (`policies`)."""
