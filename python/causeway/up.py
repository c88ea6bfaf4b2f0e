"""`causeway up` becomes this program: it takes what only one process may have, and keeps another one serving.

The pid stays for as long as causeway runs, whatever becomes of the process that serves.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from causeway.premises import bind_api, check_dns, data_dir_of_our_own, root_token
from causeway.settings import LEAVE_SLACK_S, Settings, StartError, command, read_settings
from causeway.supervise.beacon import Beacon, NoBeacon
from causeway.supervise.keeper import Keeper

log = logging.getLogger("causeway")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal; answer the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        settings = read_settings(given)
        with data_dir_of_our_own(settings.data_dir):
            if not settings.is_outpost:
                root_token(settings.data_dir / "token", settings.given_token)
            if settings.dns:
                check_dns(settings.dns.listen)
            api = bind_api(settings.api_host, settings.api_port)
            leave_s = settings.anycast.policy.leave_s + LEAVE_SLACK_S if settings.anycast else 0.0
            return Keeper(given, settings.data_dir, api, settings.drain_s, leave_s, _beacon(settings)).run()
    except StartError as error:
        print(f"{command(given)}: {error}", file=sys.stderr)
        return error.status


def _beacon(settings: Settings) -> Beacon | None:
    """What routes lead to. Without it this edge serves all the same, and announces nothing."""
    if settings.anycast is None:
        return None
    try:
        return Beacon()
    except NoBeacon as error:
        log.error("anycast: nothing is announced: %s", error)
        return None


if __name__ == "__main__":
    sys.exit(main())
