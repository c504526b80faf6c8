"""Our values as bytes and messages, and back, with every limit checked."""
