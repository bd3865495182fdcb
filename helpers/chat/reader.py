from helpers.chat.events import Content


class ReplyReader:
    def __init__(self, form, tools, *, thinking, reading_calls=True):
        pass

    def feed(self, text):
        return [Content(text)] if text else []

    def finish(self, cut):
        return []
