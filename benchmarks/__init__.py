"""Measurements of speed, memory and results; README.md beside this says what each shows. No part of the package."""
