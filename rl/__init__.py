"""Reinforcement learning for designs: environments, graph policies, training with or without Ray."""
