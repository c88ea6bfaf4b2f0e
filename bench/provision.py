"""Make the bench's applications through the HTTP API, from inside the proxy's namespace.

Ends with 1 and a reason where that fails.
"""

import sys
import time
from pathlib import Path

import httpx

READY_S = 20
HEADER = 10  # so much further up the origin expects a PROXY v2 header
PORTS = (("tcp", 7001), ("tcp", 7002), ("tcp", 7003), ("udp", 7004))


def main(url: str, token_file: str, origin: str, carrier: str, header: str = "off") -> None:
    _wait_until_ready(url)
    token = Path(token_file).read_text().strip()
    with httpx.Client(base_url=f"{url}/client/v4", headers={"Authorization": f"Bearer {token}"}, timeout=10) as api:
        account = _result(api.get("/accounts"))[0]["id"]
        zone = _result(api.post("/zones", json={"name": "bench.example", "account": {"id": account}}))["id"]
        for protocol, port in PORTS:
            has_header = header != "off" and protocol == "tcp"
            application = {
                "proxy_protocol": header if has_header else "off",
                "protocol": f"{protocol}/{port}",
                "dns": {"type": "CNAME", "name": f"{protocol}{port}.bench.example"},
                "origin_direct": [f"{protocol}://{origin}:{port + HEADER * has_header}"],
                "x_causeway": {"carrier": carrier},
            }
            _result(api.post(f"/zones/{zone}/spectrum/apps", json=application))
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=10) as api:
        for found in _result(api.get("/api/v1/applications")):
            if found["carrier"] != carrier:
                sys.exit(f"{found['dns']} is carried by {found['carrier']}, not {carrier}: {found['listeners']}")


def _wait_until_ready(url: str) -> None:
    deadline, answer = time.monotonic() + READY_S, "no answer"
    while time.monotonic() < deadline:
        try:
            response = httpx.get(f"{url}/readyz", timeout=1)
            if response.status_code == 200:
                return
            answer = f"{response.status_code} {response.text[:200]}"
        except httpx.HTTPError as error:
            answer = str(error)
        time.sleep(0.05)
    sys.exit(f"/readyz not 200 within {READY_S} s: {answer}")


def _result(response: httpx.Response):
    if response.status_code >= 300:
        request = response.request
        sys.exit(f"{request.method} {request.url} -> {response.status_code} {response.text[:400]}")
    return response.json()["result"]


if __name__ == "__main__":
    main(*sys.argv[1:])
