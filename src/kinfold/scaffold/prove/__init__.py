"""Proving that a model loads what it should: certificate, round trip, parity with a reference."""
