"""Scores of text-to-image benchmarks from a judge's answers: one module per benchmark, and what they share."""
