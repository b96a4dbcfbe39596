"""The web page's files, and routes for the training runs that it shows."""
