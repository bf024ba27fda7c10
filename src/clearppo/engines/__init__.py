"""Where training runs: the Engine socket, and its plugs. Only here may processes talk to each other."""
