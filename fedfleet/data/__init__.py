"""Data sets by name, their images and labels, and how a set is split over workers."""
