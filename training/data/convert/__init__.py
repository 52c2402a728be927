"""Converters of other data sets into the common on-disk form: what each kind of source holds, and one way to write it.

A kind's module turns its source into a `Plan` (which images, whose, seen from where, and what was left out); `run`
writes any plan.
"""
