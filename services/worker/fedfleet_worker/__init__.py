"""The worker: a resident process on a device; trains and keeps its own state on disk."""
