"""Files of prompts, written in batches."""
