"""Care: copies of whole stores, and what to do about damage.

The map, from the ground up: `carrying` (facts from one log into another), `increments` and `backup`
(copies), `comparing`, `compacting`, `salvage` (what damage left), `loose`, `naming` and `claims`
(which of it is proven), `mending` and `repair` (a new store of it), `doctor` (what state a store is
in).
"""
