"""The verbs of the command line, one function each, and the same call from Python.

A module here imports nothing heavy before its function is called, so that ``--help`` loads no more
than the package itself does.
"""
