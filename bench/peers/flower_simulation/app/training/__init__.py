"""A recipe's work, as bench/peers/work.py writes it, as an application of Flower."""
