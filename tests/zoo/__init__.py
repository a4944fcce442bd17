"""Tiny checkpoints of transformers' families, and how many of them one command takes."""
