"""An origin that sends what it is asked for: eight bytes say how many, most significant first. `origin.py PORT`."""

import asyncio
import socket
import sys

PIECE = bytes(1 << 16)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        left = int.from_bytes(await reader.readexactly(8))
        while left:
            writer.write(PIECE[:left])
            left -= min(left, len(PIECE))
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass  # it was reset, or was a connection without a byte
    finally:
        writer.close()


async def main() -> None:
    both = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
    server = await asyncio.start_server(serve, sock=both)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
