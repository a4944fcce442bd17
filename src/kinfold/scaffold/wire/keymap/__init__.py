"""Edits of the key maps in a family's `loader.py`: reading them, editing one rule by rule, adding one."""
