"""The commands: what people at a terminal ask a running server, and of a configuration file.

`spec` holds the table that the parser, the help and the shell completions are made of. Every command is a function
of its parsed options that returns the exit status. Modules here are imported with the command line, so what is slow
to import (the configuration) is imported where it is used.
"""
