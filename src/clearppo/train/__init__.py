"""The loops: PPO's iteration, what is measured on it, what is kept of it."""
