"""Care: copies of whole stores, and what to do about damage.

The map, from the ground up: `carrying` (facts from one log into another), `increments` and `backup`
(copies), `comparing`, `compacting`, `salvage`, `mending` and `repair` (what damage left), `doctor`
(what state a store is in).
"""
