"""Sessions: what an application keeps conversations in, over one event store.

The map, from the ground up:

    settings   `settings` (one typed object), `checks` (of what callers give), `tokens` (counters)
    looking    `cache`, `session` (headers through it), `external` (keys of the outside world),
               `search`, `health`, `learning`, `sharing` (context by reference), `templates`,
               `limits`
    windows    `marks`, `shown`, `shapes`, `context` (what a model is to see)
    pruning    `units`, `plans`, `policies`, `eviction`, `trimming`, `semantic`, `pruning`,
               `background` (a thread of one's own), `cleanup`
    summaries  `textrank`, `digests` (text), `covering` (when and what), `summaries` (the worker)
    manager    `creation`, `questions`, `changes`, `care`, `aio`, `manager` (SessionManager)
    agent      `turns` (read back from facts), `driving` (threads, event loops), `agent`

Everything it changes is a fact in the log; nothing here keeps state that replay could not rebuild.
"""

from .agent import AgentSession
from .cache import CacheStatistics
from .context import Window
from .manager import SessionManager
from .plans import Outcome, Plan
from .search import Hit
from .session import Session
from .settings import Settings
from .shapes import to_anthropic, to_openai
from .templates import Template

__all__ = [
    "AgentSession",
    "CacheStatistics",
    "Hit",
    "Outcome",
    "Plan",
    "Session",
    "SessionManager",
    "Settings",
    "Template",
    "Window",
    "to_anthropic",
    "to_openai",
]
