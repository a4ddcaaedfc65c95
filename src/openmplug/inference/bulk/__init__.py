"""Many pictures in, a table of results out: folders, tables and tar shards of any size, on one process, several machines or Ray.

``inputs`` lists what the user named, out of ``sources`` and ``shards``; ``job`` is what a command asks for; ``decoding`` turns rows into
pixels ahead of the model; ``verbs`` says what is computed of them, ``predicting`` computes it here and ``cluster`` on Ray; ``run`` keeps
finished rows in a journal and goes on where a stopped run ended; ``outputs`` writes the table.
"""
