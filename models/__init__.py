"""Backbones: one file a model family, with its tokenizer, checkpoint loading and the small `nano`."""
