"""From a conversation to answers: options, grammars of tool calls and schemas, parsers, usage."""
