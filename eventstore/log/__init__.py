"""The log: how facts are kept. One protocol (base.py), two implementations."""
