"""Write a small MMDB file (the format's specification 2.0), so that tests need nobody's database."""

import struct
from ipaddress import ip_network


def mmdb(records: dict[str, dict[str, object]], kind: str = "Test") -> bytes:
    """A file that says the record for each of these prefixes; IPv4 lies in ::/96."""
    data, offsets = b"", {}
    nodes: list[list[object]] = [[None, None]]
    for text, record in records.items():
        offsets[text] = len(data)
        data += _encode(record)
        network = ip_network(text)
        length = network.prefixlen + (96 if network.version == 4 else 0)
        bits = f"{int(network.network_address):0128b}"[:length]
        at = 0
        for bit in bits[:-1]:
            below = nodes[at][int(bit)]
            if below is None:
                nodes.append([None, None])
                below = nodes[at][int(bit)] = len(nodes) - 1
            assert isinstance(below, int), f"{text} is within another prefix"
            at = below
        nodes[at][int(bits[-1])] = text

    def number(record: object) -> int:
        if record is None:
            return len(nodes)
        return record if isinstance(record, int) else len(nodes) + 16 + offsets[str(record)]

    tree = b"".join(number(record).to_bytes(3) for node in nodes for record in node)
    about = {
        "node_count": _Sized(6, len(nodes), 4),
        "record_size": _Sized(5, 24, 2),
        "ip_version": _Sized(5, 6, 2),
        "database_type": kind,
        "languages": [],
        "binary_format_major_version": _Sized(5, 2, 2),
        "binary_format_minor_version": _Sized(5, 0, 2),
        "build_epoch": _Sized(9, 1_700_000_000, 8),
        "description": {},
    }
    return tree + bytes(16) + data + b"\xab\xcd\xefMaxMind.com" + _encode(about)


class _Sized:
    """A number of one of the format's types."""

    def __init__(self, type_: int, value: int, size: int) -> None:
        self.type_, self.value, self.size = type_, value, size


def _encode(value: object) -> bytes:
    match value:
        case dict():
            return _head(7, len(value)) + b"".join(_encode(part) for item in value.items() for part in item)
        case list():
            return _head(11, len(value)) + b"".join(_encode(part) for part in value)
        case str():
            return _head(2, len(value.encode())) + value.encode()
        case float():
            return _head(3, 8) + struct.pack(">d", value)
        case int():
            return _encode(_Sized(6, value, 4))
        case _Sized():
            return _head(value.type_, value.size) + value.value.to_bytes(value.size)
        case _:
            raise TypeError(value)


def _head(type_: int, size: int) -> bytes:
    """A size from 29 to 284 has a byte of its own behind the type."""
    short, rest = (size, b"") if size < 29 else (29, bytes([size - 29]))
    return bytes([type_ << 5 | short]) + rest if type_ < 8 else bytes([short, type_ - 7]) + rest
