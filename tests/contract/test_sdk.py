"""The official Cloudflare SDK, unmodified but for its base URL, against a running server."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime

import cloudflare
import pytest
from cloudflare import Cloudflare
from running import ZONE, Api, Server, ask, free_port, upper_origin


@pytest.fixture
def sdk(api: Api, running: Server) -> Iterator[Cloudflare]:
    with running.sdk() as client:
        yield client


def test_an_application_lives_its_whole_life(sdk: Cloudflare, api: Api) -> None:
    zone = sdk.zones.list(name=ZONE).result[0]
    port = free_port()
    with upper_origin() as origin:
        made = sdk.spectrum.apps.create(
            zone_id=zone.id,
            dns={"type": "CNAME", "name": f"life.{ZONE}"},
            protocol=f"tcp/{port}",
            traffic_type="direct",
            origin_direct=[f"tcp://127.0.0.1:{origin}"],
            ip_firewall=False,
            proxy_protocol="off",
            tls="off",
            argo_smart_routing=False,
            edge_ips={"type": "dynamic", "connectivity": "all"},
        )
        assert made is not None
        assert len(made.id) == 32
        assert int(made.id, 16)
        assert made.dns.name == f"life.{ZONE}"
        assert made.origin_direct == [f"tcp://127.0.0.1:{origin}"]
        assert abs((datetime.now(UTC) - made.created_on).total_seconds()) < 60
        assert ask(port) == b"HELLO\n"

        got = sdk.spectrum.apps.get(made.id, zone_id=zone.id)
        assert got is not None
        assert got.to_dict() == made.to_dict()
        assert [item.id for item in sdk.spectrum.apps.list(zone_id=zone.id)] == [made.id]

        moved = free_port()
        changed = sdk.spectrum.apps.update(
            made.id,
            zone_id=zone.id,
            dns={"type": "CNAME", "name": f"life.{ZONE}"},
            protocol=f"tcp/{moved}",
            origin_direct=[f"tcp://127.0.0.1:{origin}"],
        )
        assert changed is not None
        assert changed.created_on == made.created_on
        assert changed.modified_on > made.modified_on
        assert ask(moved) == b"HELLO\n"
        with pytest.raises(ConnectionRefusedError):
            ask(port)

        gone = sdk.spectrum.apps.delete(made.id, zone_id=zone.id)
        assert gone is not None
        assert gone.id == made.id
        with pytest.raises(ConnectionRefusedError):
            ask(moved)
        with pytest.raises(cloudflare.NotFoundError):
            sdk.spectrum.apps.get(made.id, zone_id=zone.id)


def test_an_origin_by_name_keeps_its_fields(sdk: Cloudflare, api: Api) -> None:
    made = sdk.spectrum.apps.create(
        zone_id=api.zone_id,
        dns={"type": "CNAME", "name": f"named.{ZONE}"},
        protocol="tcp/21000-21010",
        traffic_type="direct",
        origin_dns={"type": "A", "name": "origin.example.org", "ttl": 1200},
        origin_port="3000-3010",
    )
    assert made is not None
    assert (made.origin_dns.name, made.origin_dns.type, made.origin_dns.ttl) == ("origin.example.org", "A", 1200)
    assert made.origin_port == "3000-3010"


def test_static_addresses_are_kept(sdk: Cloudflare, api: Api) -> None:
    made = sdk.spectrum.apps.create(
        zone_id=api.zone_id,
        dns={"type": "ADDRESS", "name": f"static.{ZONE}"},
        protocol=f"udp/{free_port()}",
        traffic_type="direct",
        origin_direct=["udp://192.0.2.1:53"],
        edge_ips={"type": "static", "ips": ["127.0.0.2"]},
    )
    assert made is not None
    assert made.edge_ips.to_dict() == {"type": "static", "ips": ["127.0.0.2"]}


def test_a_wrong_token_raises_its_authentication_error(running: Server) -> None:
    with running.sdk("x" * 40) as stranger, pytest.raises(cloudflare.AuthenticationError):
        stranger.accounts.list()
    with running.sdk("x" * 40) as stranger, pytest.raises(cloudflare.AuthenticationError):
        stranger.user.tokens.verify()


def test_a_token_that_may_only_read_is_not_permitted_to_write(sdk: Cloudflare, api: Api, running: Server) -> None:
    made = api.create()
    token = api.http.post("/api/v1/tokens", json={"name": "reader", "scope": "read"}).json()["result"]
    body = {"dns": {"type": "CNAME", "name": f"no.{ZONE}"}, "origin_direct": ["tcp://192.0.2.1:1"]}
    before = api.state()
    with running.sdk(token["value"]) as reader:
        assert [one.id for one in reader.spectrum.apps.list(zone_id=api.zone_id)] == [made["id"]]
        with pytest.raises(cloudflare.PermissionDeniedError, match="'reader' may only read"):
            reader.spectrum.apps.create(zone_id=api.zone_id, protocol="tcp/21050", **body)
        with pytest.raises(cloudflare.PermissionDeniedError):
            reader.spectrum.apps.update(made["id"], zone_id=api.zone_id, protocol="tcp/21050", **body)
        with pytest.raises(cloudflare.PermissionDeniedError):
            reader.spectrum.apps.delete(made["id"], zone_id=api.zone_id)
        with pytest.raises(cloudflare.PermissionDeniedError):
            reader.zones.delete(zone_id=api.zone_id)
        assert api.state() == before
        assert api.http.delete(f"/api/v1/tokens/{token['id']}").status_code == 200
        with pytest.raises(cloudflare.AuthenticationError):
            reader.spectrum.apps.get(made["id"], zone_id=api.zone_id)


def test_guessing_ends_in_a_rate_limit_that_spares_the_right_token(alone: Callable[..., Server]) -> None:
    server = alone().start()
    with server.sdk("x" * 40, max_retries=0) as stranger, server.sdk() as operator:
        with pytest.raises(cloudflare.RateLimitError) as refused:
            for _ in range(50):
                with suppress(cloudflare.AuthenticationError):
                    stranger.accounts.list()
        assert 0 < int(refused.value.response.headers["Retry-After"]) <= 60
        assert len(list(operator.accounts.list())) == 1


def test_an_edit_changes_the_named_field_alone(sdk: Cloudflare, api: Api) -> None:
    """The generated SDK has no `edit` for applications; its own `patch` sends one."""
    made = api.create(ip_firewall=True, x_causeway={"name": "kept"})
    answer = sdk.patch(
        f"/zones/{api.zone_id}/spectrum/apps/{made['id']}", body={"proxy_protocol": "v2"}, cast_to=object
    )
    assert isinstance(answer, dict)
    changed = answer["result"]
    assert changed["modified_on"] > made["modified_on"]
    assert changed == made | {"proxy_protocol": "v2", "modified_on": changed["modified_on"]}


def test_order_and_direction(sdk: Cloudflare, api: Api) -> None:
    names = [f"{letter}.{ZONE}" for letter in "bca"]
    for name in names:
        api.create(dns={"type": "CNAME", "name": name})
    for direction, expected in (("asc", sorted(names)), ("desc", sorted(names, reverse=True))):
        listed = sdk.spectrum.apps.list(zone_id=api.zone_id, order="dns", direction=direction, per_page=2, page=1)
        assert [one.dns.name for one in listed] == expected


def test_the_global_key_pair_gets_a_clear_error(running: Server) -> None:
    with (
        Cloudflare(api_email="a@example.net", api_key="k" * 37, base_url=f"{running.url}/client/v4") as old,
        pytest.raises(cloudflare.AuthenticationError, match="Bearer"),
    ):
        old.accounts.list()


def test_accounts_zones_and_the_token_check(sdk: Cloudflare) -> None:
    verified = sdk.user.tokens.verify()
    assert verified is not None
    assert verified.status == "active"
    accounts = list(sdk.accounts.list())
    assert len(accounts) == 1
    assert sdk.accounts.get(account_id=accounts[0].id).name == accounts[0].name

    zone = sdk.zones.create(account={"id": accounts[0].id}, name="Made-By-SDK.example.org.", type="full")
    assert zone is not None
    try:
        assert zone.name == "made-by-sdk.example.org"
        assert zone.status == "active"
        assert zone.account.id == accounts[0].id
        assert sdk.zones.get(zone_id=zone.id).name == zone.name
        assert [z.id for z in sdk.zones.list(name="made-by-sdk.example.org")] == [zone.id]
        assert zone.id in [z.id for z in sdk.zones.list()]
        with pytest.raises(cloudflare.BadRequestError):
            sdk.zones.create(account={"id": accounts[0].id}, name="made-by-sdk.example.org")
    finally:
        assert sdk.zones.delete(zone_id=zone.id).id == zone.id
    with pytest.raises(cloudflare.NotFoundError):
        sdk.zones.get(zone_id=zone.id)


def test_listing_walks_every_page_once(sdk: Cloudflare, api: Api) -> None:
    made = {api.create(protocol=f"tcp/{21_100 + n}")["id"] for n in range(25)}
    for options in ({}, {"page": 1, "per_page": 7}, {"per_page": 25}, {"per_page": 100}):
        listed = [item.id for item in sdk.spectrum.apps.list(zone_id=api.zone_id, **options)]
        assert sorted(listed) == sorted(made), options


def test_refusals_carry_code_message_and_pointer(sdk: Cloudflare, api: Api) -> None:
    with pytest.raises(cloudflare.BadRequestError) as refused:
        sdk.spectrum.apps.create(
            zone_id=api.zone_id,
            dns={"type": "CNAME", "name": f"a.{ZONE}"},
            protocol="tcp/99999",
            origin_direct=["tcp://192.0.2.1:1"],
        )
    [error] = refused.value.errors
    assert error.code == 13002
    assert "99999" in str(error.message)
    assert refused.value.body["errors"][0]["source"]["pointer"] == "/protocol"


@pytest.mark.parametrize("level", ["zone_id", "account_id"])
def test_an_access_rule_lives_its_whole_life_at_both_levels(sdk: Cloudflare, api: Api, level: str) -> None:
    rules = sdk.firewall.access_rules
    owner = {level: api.zone_id if level == "zone_id" else sdk.accounts.list().result[0].id}
    made = rules.create(configuration={"target": "ip", "value": "198.51.100.4"}, mode="block", notes="seen", **owner)
    try:
        assert made is not None and made.configuration is not None
        assert (made.configuration.target, made.configuration.value) == ("ip", "198.51.100.4")
        assert (made.mode, made.notes, made.allowed_modes) == ("block", "seen", ["block", "whitelist"])
        got = rules.get(made.id, **owner)
        assert got is not None and got.to_dict() == made.to_dict()
        found = rules.list(configuration={"target": "ip", "value": "198.51.100.4"}, match="all", per_page=1, **owner)
        assert [rule.id for rule in found] == [made.id]
        edited = rules.edit(
            made.id, configuration={"target": "ip", "value": "198.51.100.4"}, mode="whitelist", notes="ours", **owner
        )
        assert edited is not None and (edited.mode, edited.notes) == ("whitelist", "ours")
        with pytest.raises(cloudflare.BadRequestError):
            rules.create(configuration={"target": "ip", "value": "198.51.100.5"}, mode="challenge", **owner)
    finally:
        gone = rules.delete(made.id, **owner)
    assert gone is not None and gone.id == made.id
    with pytest.raises(cloudflare.NotFoundError):
        rules.get(made.id, **owner)


def test_smart_routing_of_a_zone_is_off_until_it_is_switched_on_and_says_when(sdk: Cloudflare, api: Api) -> None:
    zone = sdk.zones.list(name=ZONE).result[0]
    got = sdk.argo.smart_routing.get(zone_id=zone.id)
    assert got is not None
    assert (got.id, got.value, got.editable, got.modified_on) == ("smart_routing", "off", True, None)
    made = sdk.argo.smart_routing.edit(zone_id=zone.id, value="on")
    assert made is not None and made.modified_on is not None
    assert (made.value, abs((datetime.now(UTC) - made.modified_on).total_seconds()) < 60) == ("on", True)
    again = sdk.argo.smart_routing.edit(zone_id=zone.id, value="on")
    assert again is not None and again.modified_on == made.modified_on, "what is so already is not changed"
    kept = sdk.argo.smart_routing.get(zone_id=zone.id)
    assert kept is not None and kept.to_dict() == made.to_dict()
    off = sdk.argo.smart_routing.edit(zone_id=zone.id, value="off")
    assert off is not None and off.value == "off"
    with pytest.raises(cloudflare.BadRequestError):
        sdk.argo.smart_routing.edit(zone_id=zone.id, value="sometimes")  # type: ignore[arg-type]
    with pytest.raises(cloudflare.APIStatusError):
        sdk.argo.smart_routing.get(zone_id="0" * 32)
