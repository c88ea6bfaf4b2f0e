"""A WHOIS server: one line in, a record out, closed. Run as a program of its own."""

import socketserver
import sys


class Question(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        name = self.rfile.readline().strip()
        self.wfile.write(b"Domain Name: " + name.upper() + b"\r\nRegistrar: causeway tests\r\n")


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


if __name__ == "__main__":
    with Server((sys.argv[1], int(sys.argv[2])), Question) as server:
        print("listening", flush=True)
        server.serve_forever()
