"""Reading the spec of a family out of a checkpoint: from names, shapes and config keys, each fact with its evidence."""
