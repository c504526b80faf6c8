"""One file per federated algorithm, with both halves."""
