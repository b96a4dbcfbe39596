"""Progress as people see it: terminal, plain lines, notebook."""
