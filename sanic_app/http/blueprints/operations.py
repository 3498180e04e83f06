"""For operators: metrics and health."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request
from sanic.response import json

from sanic_app.http import routes
from sanic_app.http.blueprints import parts_of, query_of, readable
from sanic_app.http.parameters import refuse_query
from sanic_app.http.schemas import liveness_object, readiness_object

blueprint = Blueprint("operations")


@readable(blueprint, routes.METRICS)
async def get_metrics(request: Request) -> HTTPResponse:
    """Show all metrics, as Prometheus text or OpenMetrics."""
    refuse_query(query_of(request))
    body, content_type = parts_of(request).metrics.exposition(
        ",".join(request.headers.getall("accept", ()))
    )
    return HTTPResponse(body, content_type=content_type)


@readable(blueprint, routes.LIVE)
async def get_liveness(request: Request) -> HTTPResponse:
    """Say that the event loop works. The store is not used."""
    return json(liveness_object(None))


@readable(blueprint, routes.READY)
async def get_readiness(request: Request) -> HTTPResponse:
    """Say whether the service is ready, and why not."""
    readiness = parts_of(request).readiness()
    return json(
        readiness_object(readiness),
        status=200 if readiness[0] else 503,
    )
