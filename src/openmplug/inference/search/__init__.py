"""Search over pictures and moments of videos: an index on disk, made once and asked often.

``index`` is the front door. ``building`` brings files into an index: ``reading`` cuts videos into ``moments`` and makes pixels,
``metadata`` says what is kept of a file's other columns. ``store`` is the LanceDB table, ``manifest`` the few facts about the whole
index, ``places`` how its files are named and read again, ``reranking`` the matching head's second look at what was found.
"""
