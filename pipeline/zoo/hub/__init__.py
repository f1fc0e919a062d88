"""Download of the models that the registry lists."""
