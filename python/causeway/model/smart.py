"""Whose flows smart routing chooses the ways of: applications that say so, and what can be of zones that do. Pure."""

from __future__ import annotations

from collections.abc import Collection

from causeway.model.application import Application, Carrier, Transport


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
    if extension.minecraft:
        return "its edge speaks for the Minecraft server, and connects to it itself"
    if extension.transparent:
        return "x_causeway.transparent needs each edge to connect to the origin itself"
    if extension.carrier is Carrier.KERNEL:
        return "x_causeway.carrier 'kernel': flows that go from edge to edge are the engine's"
    return None
