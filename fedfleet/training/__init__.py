"""Local training and evaluation of torch modules."""
