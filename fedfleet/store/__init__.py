"""Journal, registry and blobs."""
