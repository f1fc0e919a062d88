"""How the shipped models are built and measured; not part of the installed package."""
