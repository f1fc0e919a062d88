"""The `vision` command."""
