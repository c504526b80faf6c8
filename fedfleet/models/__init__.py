"""Architectures by name, and the card that says how to rebuild a trained model."""
