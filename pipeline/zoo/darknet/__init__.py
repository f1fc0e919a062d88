"""Import of Darknet networks from their cfg and weights files."""
