"""Training, synthetic heads and evaluation of NVB-Face."""
