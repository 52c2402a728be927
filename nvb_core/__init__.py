"""NVB-Face: model, cameras, sampling, checkpoints, face crop, provenance and command line."""
