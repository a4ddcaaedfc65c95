"""Where the model looks: a map over the picture for every word that is matched, asked or written.

``front.py`` takes what people give and makes batches; ``reading.py`` computes (with ``models/attention_maps.py``); ``explanation.py`` is
what comes back, ``drawing.py`` its picture.
"""
