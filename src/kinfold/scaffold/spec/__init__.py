"""The spec of a family, and reading one out of a checkpoint."""
