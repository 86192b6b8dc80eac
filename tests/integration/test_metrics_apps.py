"""Can a library's user serve the metrics from a web server of their own?"""

from __future__ import annotations

import aiohttp
from aiohttp import web
from starlette.applications import Starlette
from starlette.routing import Mount

import tenantproxy.metrics
from tenantproxy import Router
from tests.support.leases import own_rows
from tests.support.web import served, served_aiohttp
from tests.support.world import World


async def test_the_metrics_can_be_mounted_in_an_asgi_application(world: World) -> None:
    async with Router(world.settings()) as router:
        app = Starlette(routes=[Mount("/metrics", tenantproxy.metrics.asgi_app(router))])
        async with served(app) as url, aiohttp.ClientSession() as http:
            await own_rows(router.tenant("row1"))
            async with http.get(f"{url}/metrics/") as answer:
                assert answer.status == 200
                assert answer.content_type == "text/plain"
                assert 'tenantproxy_pool_acquires_total{result="ok",tenant="row1"}' in (await answer.text())
            wanted = {"Accept": "application/openmetrics-text;version=1.0.0"}
            async with http.get(f"{url}/metrics/", headers=wanted) as answer:
                assert answer.content_type == "application/openmetrics-text"
                assert (await answer.text()).endswith("# EOF\n")
            async with http.post(f"{url}/metrics/") as answer:
                assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
            async with http.head(f"{url}/metrics/") as answer:
                assert answer.status == 200


async def test_the_metrics_have_a_handler_for_aiohttp(world: World) -> None:
    async with Router(world.settings()) as router:
        app = web.Application()
        app.router.add_get("/metrics", tenantproxy.metrics.aiohttp_handler(router))
        async with served_aiohttp(app) as url, aiohttp.ClientSession() as http, http.get(f"{url}/metrics") as answer:
            assert "tenantproxy_build_info" in await answer.text()
