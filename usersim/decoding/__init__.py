"""Decoding: sampling parameters, random streams, top-k and top-p, calibration of P(end)."""
