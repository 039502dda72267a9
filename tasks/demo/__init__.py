"""The ingredients of `finf demo`: a small corpus with known plants, a small model trained on it, the baselines."""
