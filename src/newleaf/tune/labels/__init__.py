"""Tasks that end in a label: rows, sequences with start, delimiter and extract tokens, batches, loss, report,
the classifier in use."""
