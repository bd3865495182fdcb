def reply_grammar(form, tools, *, choice, parallel=True, thinking=None, content=None, strict=True):
    return content
