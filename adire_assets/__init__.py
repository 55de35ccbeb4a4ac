"""Adire Assets: from DVC-versioned images to a live, traceable Triton model."""
