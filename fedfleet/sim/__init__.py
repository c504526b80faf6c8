"""Drivers of rounds without a network."""
