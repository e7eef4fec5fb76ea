"""Any input -> batches of rows in order, in bounded memory; `source.py` is the way in."""
