"""The known layouts of checkpoints, and rendering key maps as source text."""
