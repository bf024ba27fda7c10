"""The policy (actor and critic), the frozen reference, and how they are loaded and saved."""
