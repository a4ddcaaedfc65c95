"""Pages of the documentation site that are made of the code, so that they cannot disagree with it."""
