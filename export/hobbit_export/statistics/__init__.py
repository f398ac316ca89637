"""What a text puts into the model's matrices, and codes chosen for it: the source model is run once, layer by layer."""
