"""The values of a row on its way."""
