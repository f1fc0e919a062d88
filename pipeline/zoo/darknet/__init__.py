"""Import of Darknet networks (cfg and weights files)."""
