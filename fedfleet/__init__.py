"""Federated learning for fleets of unequal edge devices."""
