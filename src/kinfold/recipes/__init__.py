"""Training recipes: from a card and data to a trained model with a card of its own.

Each is a module with a `train(config)`, a command `scaffold train NAME`, and one of `python -m kinfold.recipes.NAME`.
"""
