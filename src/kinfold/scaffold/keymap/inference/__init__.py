"""Which tensors go together by names and shapes alone, and how sure that is."""
