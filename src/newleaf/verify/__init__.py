"""Is this answer right? Checks of answers, and the sandbox that runs strangers' programs."""
