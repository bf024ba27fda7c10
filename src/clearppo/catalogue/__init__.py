"""Words about the numbers, alarms, checks and errors that a user meets, in English and in Chinese.

No torch, and nothing of the program that it speaks of: what a metric's unit and formula are is read from the source
that computes it (`formulas.py`), and tests hold the rest to what there is. To add a metric, register it where it is
computed and write its entry in `metrics/`; a test names what is missing.
"""
