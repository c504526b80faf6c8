"""Cameras: where frames come from, what is seen on them, and what is told of it."""
