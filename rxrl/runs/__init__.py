"""What every run needs, supervised or not: its folder, checkpoints, metrics, optimizers, processes and signals."""
