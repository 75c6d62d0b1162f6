"""The command line: parses, calls one command, renders. No torch in here."""
