"""The log: how facts are kept. One protocol (base), one decision (plan), two implementations."""
