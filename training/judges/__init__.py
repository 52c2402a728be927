"""Two instruments for pictures that a model made: is this the same person (ID), and from where is it seen (POSE)?"""
