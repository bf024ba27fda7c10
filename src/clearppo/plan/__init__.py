"""What a run will need, before it runs: bytes by role and phase, seconds by phase, what fits, what would save.

Closed formulas over plain numbers: no torch, no configuration, no files. docs/plan.md has all of them.
"""
