"""The page in the browser: models for people who write no Python. ``running.serve`` opens it; it is made of Gradio (extra ``[demo]``).

Gradio is imported by ``layout``, ``tabs``, ``comparing``, ``searching``, ``style`` and ``running`` alone; what they call is plain Python.
"""
