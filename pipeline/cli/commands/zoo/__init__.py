"""The subcommands that work with models."""
