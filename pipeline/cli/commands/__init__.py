"""The subcommands: one module each, named in the table of `pipeline.cli.main`."""
