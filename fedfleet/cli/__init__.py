"""The `fedfleet` command."""
