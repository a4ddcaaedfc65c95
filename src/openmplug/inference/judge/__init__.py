"""Text-to-image benchmarks scored by a question-answering model: DSG-1k, DPG-Bench, TIFA v1.0.

Each benchmark has one module: what it asks, and how its answers become a report. ``asking`` puts questions to the model, ``session``
keeps the rows of a run, ``report`` writes what came out. The rules of scoring are in ``openmplug.metrics.judging``.
"""
