"""Numbers in, numbers out: no models, no files, no torch."""
