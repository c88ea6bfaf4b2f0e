"""`/zones/{zone_id}/argo/smart_routing`: smart routing for a whole zone, as the Cloudflare v4 API has it."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from causeway.api.auth import may_read, may_write
from causeway.api.body import JsonBody
from causeway.api.envelope import Json, answer
from causeway.api.examples import SMART_ROUTING_BODY
from causeway.api.reach import PlaneOf, check_ids
from causeway.control import zones
from causeway.model.document.reading import as_object, invalid, refuse_unknown, shown
from causeway.model.timestamps import rfc3339
from causeway.model.zone import Setting

router = APIRouter(prefix="/client/v4/zones/{zone_id}/argo", tags=["Zones"])
READ = [Depends(may_read), Depends(check_ids)]
WRITE = [Depends(may_write), Depends(check_ids)]


@router.get("/smart_routing", summary="Is smart routing on for a zone?", dependencies=READ)
def get_smart_routing(plane: PlaneOf, zone_id: str) -> Json:
    return answer(_shown(zones.smart_routing(plane, zone_id)))


@router.patch(
    "/smart_routing",
    summary="Switch smart routing for all applications of a zone that it can be for",
    dependencies=WRITE,
    openapi_extra=SMART_ROUTING_BODY,
)
def patch_smart_routing(plane: PlaneOf, zone_id: str, body: JsonBody) -> Json:
    fields = as_object(body, "")
    refuse_unknown(fields, ("value",), "")
    value = fields.get("value")
    if value not in ("on", "off"):
        raise invalid("/value", f"value {shown(value)} is neither 'on' nor 'off'")
    return answer(_shown(zones.set_smart_routing(plane, zone_id, is_on=value == "on")))


def _shown(setting: Setting) -> dict[str, object]:
    return {
        "id": "smart_routing",
        "value": "on" if setting.is_on else "off",
        "editable": True,
        "modified_on": rfc3339(setting.modified_on) if setting.modified_on else None,
    }
