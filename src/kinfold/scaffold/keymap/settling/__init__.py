"""What names and shapes leave open, and what settles it: values of both sides, or a reference."""
