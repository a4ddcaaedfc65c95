"""Many pictures in, a table of results out: folders, tables and tar shards of any size, on one process, several machines or Ray.

``inputs`` lists what the user named, ``decoding`` turns rows into pixels ahead of the model, ``verbs`` says what is computed of them,
``run`` keeps finished rows in a journal and goes on where a stopped run ended, ``outputs`` writes the table, ``cluster`` is Ray Data.
"""
