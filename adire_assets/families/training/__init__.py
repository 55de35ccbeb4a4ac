"""What the training of every family shares: the loop, its checkpoints, optimizers, processes.

No family, and none is known here. A family brings what learns and what from: see `loop.Task`.
"""
