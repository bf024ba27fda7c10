"""PPO for language models from human feedback: small, exact, fast."""
