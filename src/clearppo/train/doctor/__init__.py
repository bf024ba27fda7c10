"""`clearppo doctor`: what can be known of a run before it begins, measured on the user's own model, data and reward.

Each file measures; a check is a function that makes a Finding of what was measured. docs/doctor.md says what is
measured and which thresholds decide.
"""
