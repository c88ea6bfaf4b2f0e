"""Attacks: found in what an edge's guard tells, answered by a plan. Pure: time and numbers are brought along."""
