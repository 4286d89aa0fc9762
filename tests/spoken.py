"""What is said where pruning is tested: messages, tool calls and their results."""

SECOND = 1_000_000_000
HOUR = 3_600 * SECOND


def said(role, text, **fields):
    """Return a message; fields that are None are left out."""
    given = {name: value for name, value in fields.items() if value is not None}
    return {"role": role, "content": text, **given}


def called(*calls, text=""):
    """Return an assistant's message that calls tools."""
    made = [{"id": call, "function": {"name": "f", "arguments": "{}"}} for call in calls]
    return said("assistant", text, tool_calls=made)


def answered(call, text="done"):
    """Return a tool's result."""
    return said("tool", text, tool_call_id=call)
