"""The command line: parse, call, print. One file a verb group; heavy imports stay inside the commands."""
