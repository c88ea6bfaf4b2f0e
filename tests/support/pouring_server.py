"""An origin that sends to every client as much as it takes: python pouring_server.py ADDRESS PORT."""

import selectors
import socket
import sys

CHUNK = memoryview(bytes(256 * 1024))


def main() -> None:
    address, port = sys.argv[1], int(sys.argv[2])
    events = selectors.DefaultSelector()
    listener = socket.create_server((address, port), backlog=4096)
    listener.setblocking(False)
    events.register(listener, selectors.EVENT_READ)
    print("listening", flush=True)
    while True:
        for key, _ in events.select():
            stream = key.fileobj
            assert isinstance(stream, socket.socket)
            if stream is listener:
                client, _ = listener.accept()
                client.setblocking(False)
                events.register(client, selectors.EVENT_WRITE)
                continue
            try:
                stream.send(CHUNK)
            except BlockingIOError:
                continue
            except OSError:
                events.unregister(stream)
                stream.close()


main()
