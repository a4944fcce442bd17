"""The model families shipped with Kinfold; `registry` lists them."""
