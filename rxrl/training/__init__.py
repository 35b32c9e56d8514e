"""Memory Reinforcement Learning: collection, update, trainer, optimizer, checkpoints and metrics."""
