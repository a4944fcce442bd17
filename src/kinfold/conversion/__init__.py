"""The parts of a conversion on disk: how tensors get there, what goes with them, and how it all appears at once."""
