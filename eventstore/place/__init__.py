"""The place: a store's directory, who has it open, and opening it with care.

The map, from the ground up: `volume` (what file system it is on), `directory` (how it is made and
described), `presence` (marks of those who have it open), `opening` (all of it, in order).
"""
