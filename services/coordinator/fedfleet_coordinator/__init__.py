"""The coordinator: the only owner of runs and rounds."""
