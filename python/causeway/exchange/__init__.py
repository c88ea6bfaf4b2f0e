"""Snapshots down, reports and events up. In-process until there are many machines."""
