"""Stand-in until the derivation is merged."""

import json


def write_calls(form, calls):
    return "\n".join(
        '<tool_call>\n{"name": "%s", "arguments": %s}\n</tool_call>'
        % (name, json.dumps(args, ensure_ascii=False, separators=(",", ":")))
        for name, args in calls
    )
