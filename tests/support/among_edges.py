"""Bare engines that are edges to each other, with certificates of a real authority."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from causeway.exchange import identity
from causeway.exchange.authority import Authority
from causeway.lab import Lab
from support.bare_engine import BareEngine

OVERLAY_PORT = 4280


class Node(AbstractContextManager[None]):
    """A node of a lab, to be entered as often as anybody likes."""

    def __init__(self, lab: Lab, name: str) -> None:
        self._lab, self.name, self.address = lab, name, lab.world.node(name).address
        self._entered: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        self._entered.append(self._lab.inside(self.name))
        self._entered[-1].__enter__()

    def __exit__(self, *told: Any) -> None:
        self._entered.pop().__exit__(*told)


class Edges:
    """By name. What each serves is said anew at each `apply`; the version goes up by itself."""

    def __init__(self, folder: Path, at: dict[str, str], inside: dict[str, Any]) -> None:
        self.at = at
        authority = Authority(folder / "authority", "tls://127.0.0.1:4222")
        self.engines: dict[str, BareEngine] = {}
        self._versions = dict.fromkeys(at, 0)
        for name in at:
            engine = BareEngine(folder / name, inside.get(name), dispatch="off", fast_path="off", guard="off")
            self.engines[name] = engine.start()
            key, text = identity.new_key()
            certified = authority.certify(name, identity.request(key, name))
            told = identity.to_edges(authority.control().ca, certified.certificate, text)
            engine.call("identify", json.loads(told))

    def apply(self, name: str, *applications: Any) -> None:
        self._versions[name] += 1
        peers = [{"name": other, "address": f"{at}:{OVERLAY_PORT}"} for other, at in self.at.items() if other != name]
        settings = {"origin_deny": [], "origin_deny_sockets": [], "allow_loopback_origins": True, "resolvers": []}
        overlay = {"name": name, "listen": f"{self.at[name]}:{OVERLAY_PORT}", "peers": peers}
        snapshot = {
            "format": 1, "version": self._versions[name], "settings": settings, "applications": list(applications),
            "overlay": overlay,
        }  # fmt: skip
        refused = [one for one in self.engines[name].call("apply", snapshot)["listeners"] if one["state"] == "refused"]
        assert not refused, refused

    def overlay(self, name: str) -> dict[str, Any]:
        told: dict[str, Any] = self.engines[name].call("observe", 0)["overlay"]
        return told

    def end(self) -> None:
        for engine in self.engines.values():
            engine.end()


@contextmanager
def edges(folder: Path, at: dict[str, str], inside: dict[str, Any] | None = None) -> Iterator[Edges]:
    """Edges of these names and addresses, which have nothing to serve yet."""
    made = Edges(folder, at, inside or {})
    try:
        for name in at:
            made.apply(name)
        yield made
    finally:
        made.end()
