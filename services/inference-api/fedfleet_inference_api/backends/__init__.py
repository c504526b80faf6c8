"""Ways to compute a version's answers, and the choice among them by measurement."""
