"""The compiled engine alone: calls come as lines of JSON, answers go as lines. Run as a program of its own."""

import json
import sys
import time

from causeway.native import Edge, NativeError


def main() -> None:
    edge = Edge.start(sys.argv[1].encode())
    print("serving", flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        given = [json.dumps(a).encode() if isinstance(a, dict) else a for a in arguments]
        begin = time.monotonic()
        try:
            answer = getattr(edge, name)(*given)
            told = {"answer": json.loads(answer) if isinstance(answer, bytes) else answer}
        except NativeError as error:
            told = {"error": [error.code, error.message]}
        print(json.dumps({"took_ms": (time.monotonic() - begin) * 1000, **told}), flush=True)


main()
