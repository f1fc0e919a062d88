"""Models: Darknet import, training of the head, quantisation, evaluation."""
