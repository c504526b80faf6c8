"""Generated stubs of proto/fedfleet/v1; written by `make proto`, never by hand."""
