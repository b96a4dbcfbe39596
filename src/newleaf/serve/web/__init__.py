"""The web page, and the runs that it shows."""
