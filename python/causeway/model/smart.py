"""Whose flows smart routing chooses the ways of: applications that say so, and what can be of zones that do. Pure."""

from __future__ import annotations

from collections.abc import Collection

from causeway.model.application import Application, Carrier, Extension, Transport


def is_steered(application: Application, smart_zones: Collection[str]) -> bool:
    """`smart_zones`: ids of the zones that have it on."""
    by_zone = application.zone_id in smart_zones and why_direct(application) is None
    return application.is_smart or by_zone


def why_direct(application: Application) -> str | None:
    """Why smart routing cannot be for this application; nothing: it can."""
    extension = application.extension
    if application.transport is not Transport.TCP:
        return "it is built for tcp alone"
    if extension.paths:
        return "x_causeway.paths says the ways of its flows"
    why = not_on_paths(extension)
    return f"paths {why}" if why else None


def not_on_paths(extension: Extension) -> str | None:
    """Why flows of such an application cannot go over other edges, whoever says the paths."""
    if extension.minecraft:
        return "cannot go with minecraft: an edge that speaks for a server connects to it itself"
    if extension.transparent or extension.carrier is Carrier.KERNEL:
        field = "transparent" if extension.transparent else "carrier 'kernel'"
        return f"are for the engine: flows that go from edge to edge are not the kernel's, and {field} is"
    return None
