"""Contamination: known leaks planted in a corpus, a model trained on it, and who finds them."""
