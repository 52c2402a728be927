"""Measure a model on synthetic heads it has never seen."""
