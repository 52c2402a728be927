"""The paper's claims, each tested by one command; `python -m benchmarks.claims.base` comes first.

What has to be trained again for a claim is trained at 64² from the shipped weights moved there (`start`), since a CPU
can do that several times over; what only has to be sampled uses the shipped weights at 128².
"""
