"""Models: download, import, build, quantize, train, evaluate and choose them."""
