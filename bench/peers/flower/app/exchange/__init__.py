"""The exchange of bench/exchange.py as an application of Flower."""
