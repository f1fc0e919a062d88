"""The `vision` command, one file a subcommand."""
