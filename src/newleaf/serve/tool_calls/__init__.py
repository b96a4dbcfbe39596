"""Tool calls: their formats, the parsers of streamed text, grammars, prompts and tool choice."""
