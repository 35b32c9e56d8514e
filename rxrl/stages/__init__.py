"""The supervised stages that Memory Reinforcement Learning starts from."""
