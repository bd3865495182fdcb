"""One model for many: the engine behind OpenAI's protocol, and more than one machine."""
