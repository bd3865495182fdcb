"""Chat without LangChain: templates, how models write their replies, and reading them."""
