"""State: what a stream of facts amounts to, folded as little as possible and cached.

The map, from the ground up: `header` (state without messages), `caches` and `snapshots` (saved
states, disposable), `hidden` (lines that no list may show), `lineage` (which events make up a
state), `transcript` (its messages, read when asked for), `decisions` (state + command -> facts).
"""
