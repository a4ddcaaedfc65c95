"""Folders of weights: written whole or not at all, read strictly."""
