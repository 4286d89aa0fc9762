"""Proof: how the facts are proved complete, unchanged and in order."""
