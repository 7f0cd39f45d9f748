"""Autograd's graph: walking it, taking gradients from it, attaching gradients to a loss."""
