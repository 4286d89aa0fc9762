"""The engine: how a command becomes facts in the log, and how facts come out again.

The map, from the ground up: `requests` (what a command needs and decides), `system`, `encoder`,
`quoting` (what was made of what goes), `redaction`, `erasure` and `retention` (what goes and what
must stay), `commands` (the public verbs), `room` and `writer` (group commit), `runner` (from a
request to a receipt), `reading`, `subscription`, `answers` (what a store tells).
"""
