"""The door for files: conversations of others in, our facts out and in, transcripts out.

    jsonl     own JSONL, every event with its envelope: export_events, import_events
    chat      OpenAI-style JSON and JSON lines: import_chat, export_chat, export_chat_lines;
              the same from memory: import_conversations
    sharegpt  ShareGPT, as datasets have it: import_sharegpt
    chatgpt   the data export of ChatGPT, its trees as branches: import_chatgpt
    tau       tau-bench trajectories, trials as branches: import_tau
    chitchat  the chitchat dataset: import_chitchat
    markdown  a transcript for people: export_markdown
    formats   telling them apart: detect_format, import_file

Underneath: sources (files), intake (whole sessions, many to a commit), lines (one line of our
own JSONL), survey (a file of events looked through before it is written).

Every import reads and checks all that was brought before it writes the first fact, and returns
Imported(sessions, branches, messages, events). `progress` is told how many more messages are in.
"""

from .chat import export_chat, export_chat_lines, import_chat, import_conversations
from .chatgpt import import_chatgpt
from .chitchat import import_chitchat
from .formats import CHAT, EVENTS, FORMATS, detect_format, import_file
from .intake import Imported, Progress
from .jsonl import export_events, import_events
from .markdown import export_markdown
from .sharegpt import import_sharegpt
from .tau import import_tau, mismatches

__all__ = [
    "CHAT",
    "EVENTS",
    "FORMATS",
    "Imported",
    "Progress",
    "detect_format",
    "export_chat",
    "export_chat_lines",
    "export_events",
    "export_markdown",
    "import_chat",
    "import_chatgpt",
    "import_chitchat",
    "import_conversations",
    "import_events",
    "import_file",
    "import_sharegpt",
    "import_tau",
    "mismatches",
]
