"""Looking at runs: the pages of `clearppo view`, and what stands behind them. It reads files and imports no torch."""
