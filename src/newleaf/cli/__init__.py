"""The command line: parse, call, print. No work of its own."""
