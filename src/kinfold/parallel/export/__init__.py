"""Writing a model that is spread over ranks as one checkpoint."""

from kinfold.parallel.export.save import save_sharded_model

__all__ = ["save_sharded_model"]
