"""What the API and the command line both print when something is refused.

A stable code, the side at fault, a sentence with the offending value and what to do. Pure.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

Side = Literal["operator", "client", "edge", "origin"]


class Code(IntEnum):
    """Codes of the Cloudflare v4 API where they exist, 19xxx where they are ours."""

    NO_ZONE = 1001
    ZONE_EXISTS = 1061
    BODY_MALFORMED = 6007
    NO_ROUTE = 7000
    NO_METHOD = 7001
    BAD_IDENTIFIER = 7003
    AUTHENTICATION = 10000
    ACCESS_RULE = 10001
    INTERNAL = 10002
    NOT_FOUND = 10006
    ACCESS_RULE_EXISTS = 10009
    UNKNOWN_FIELD = 10012
    ORIGIN_CHOICE = 11000
    ORIGIN_DNS = 11001
    ORIGIN_ADDRESS = 11002
    DNS_TYPE = 11004
    EDGE_IP_FAMILY = 11018
    EDGE_IP_NOT_OURS = 11019
    EDGE_IP_OF_OTHER_ZONE = 11033
    VIRTUAL_NETWORK_ORIGIN = 11041
    VIRTUAL_NETWORK_SINGLE = 11042
    VIRTUAL_NETWORK_RANGE = 11043
    VIRTUAL_NETWORK_ROUTE = 11044
    VIRTUAL_NETWORK_ID = 11045
    PORT = 13002
    HOSTNAME = 16001
    NOT_BUILT = 19001
    INVALID_VALUE = 19002
    CONFLICT = 19003
    NOT_PERMITTED = 19004
    TOO_MANY_LOGINS = 19005
    BODY_TOO_LARGE = 19006
    SNAPSHOT_TOO_LARGE = 19007
    NOT_LEADING = 19008


_STATUS = {
    Code.NO_ZONE: 404,
    Code.NO_ROUTE: 404,
    Code.NO_METHOD: 405,
    Code.BAD_IDENTIFIER: 404,
    Code.AUTHENTICATION: 401,
    Code.INTERNAL: 503,
    Code.NOT_FOUND: 404,
    Code.EDGE_IP_FAMILY: 403,
    Code.NOT_PERMITTED: 403,
    Code.TOO_MANY_LOGINS: 429,
    Code.BODY_TOO_LARGE: 413,
    Code.NOT_LEADING: 503,
}


class Problem(Exception):
    """A refused request. Nothing was changed."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        pointer: str | None = None,
        side: Side = "operator",
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.pointer = pointer
        self.side = side
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        """The HTTP status that goes with the code."""
        return _STATUS.get(self.code, 400)
