"""The round state machine and the recipe: pure, no I/O, no clock, no torch."""
