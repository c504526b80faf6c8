"""The inference service: follows the registry and answers what an image shows."""
