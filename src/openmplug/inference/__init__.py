"""A trained folder in use: pictures and words in, answers, captions and matches out.

``pipelines`` works on what is in memory, ``bulk`` on folders, tables and tar shards. Nothing here trains.
"""
