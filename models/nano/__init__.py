"""`nano`: a small Infinity trained on synthetic captioned scenes."""
