"""From a spec to the files of a family."""
