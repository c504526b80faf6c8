"""Turn a vector into fewer bytes and back, with a stated error."""
