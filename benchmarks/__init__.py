"""Measurements on real data; README.md beside this says what each shows. No part of the package."""
