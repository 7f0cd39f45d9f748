"""The autograd graph: walking it, taking gradients from it, scaling them."""
