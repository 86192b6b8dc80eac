"""Does the operator page show what there is, to who may look, and do what it is asked, in a real browser?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import pytest
import pytest_asyncio

from tests.e2e.page.conftest import Looked, accessible, page_of
from tests.support.browser import Browser, Tab
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
EVIL = "<img src=x onerror=\"document.title='taken'\">"
ROWS = "document.querySelectorAll('#table tbody button')"


def text_of(name: str) -> str:
    return f"document.getElementById('{name}').textContent"


async def clicked(tab: Tab, script: str) -> None:
    await tab.until(f"!!({script})", f"there is {script}")
    await tab.evaluate(f"({script}).click()")


async def opened(tab: Tab, tenant: str) -> None:
    """The drawer of that tenant, with what it holds."""
    row = f"[...{ROWS}].find((each) => each.textContent === '{tenant}')"
    await clicked(tab, row)
    await tab.until("!!document.querySelector('#drawer-body h3')", "the drawer says what the tenant holds")


async def test_the_page_shows_live_who_holds_a_connection(browser: Browser, looked: Looked) -> None:
    async with page_of(browser, looked, "read") as tab:
        assert "the_read, role read" in await tab.evaluate(text_of("who"))
        async with looked.client("umbrella") as client:
            begun = client.transaction()
            await begun.start()
            used = (
                f"[...{ROWS}].some((each) => each.textContent === 'umbrella'"
                " && each.closest('tr').cells[4].textContent === '1')"
            )
            await tab.until(used, "its pool has one in use")
            await tab.until(
                "document.querySelector('#servers p').textContent.startsWith('up: used ')", "the server is up"
            )
            await begun.rollback()
        await tab.until(f"!({used})", "it was given back")
        await tab.until("document.querySelectorAll('#events li').length > 0", "events are told")
        await tab.until("document.querySelectorAll('.uplot canvas').length === 2", "waits and holds are drawn")
        await tab.until(f"{text_of('hold-text')}.includes('p99')", "and told as a text")
        assert tab.problems == []


async def test_what_a_client_calls_itself_is_text_and_never_markup(browser: Browser, looked: Looked) -> None:
    async with looked.client("umbrella", application_name=EVIL) as client, page_of(browser, looked, "read") as tab:
        await client.fetchval("SELECT 1")
        await opened(tab, "umbrella")
        await tab.until(f"{text_of('drawer-body')}.includes({json.dumps(EVIL)})", "its name is shown as it is")
        assert await tab.evaluate("document.images.length") == 0
        assert await tab.evaluate("document.title") == "tenantproxy"
        assert tab.problems == []


SECRETS = (
    "SET app.token = s3cr3t; SELECT 's3cr3t', E's3cr3t\\'', $x$s3cr3t$x$, 4711, pg_sleep(600) /* s3cr3t */ -- s3cr3t"
)


async def test_who_holds_what_since_when_is_told_with_statements_that_hold_no_literal(
    browser: Browser, looked: Looked
) -> None:
    async with (
        page_of(browser, looked, "read") as tab,
        looked.client("umbrella", application_name="a job") as client,
    ):
        runs = asyncio.ensure_future(client.execute(SECRETS))
        await opened(tab, "umbrella")
        told = "document.querySelector('#drawer-body code')?.textContent ?? ''"
        await tab.until(f"{told}.includes('pg_sleep(?)')", "the drawer says what runs")
        drawer = await tab.evaluate(text_of("drawer-body"))
        assert "a job" in drawer
        assert "active, " in drawer
        assert "s3cr3t" not in drawer
        assert "4711" not in drawer
        client.terminate()
        with suppress(Exception):
            await runs
        await tab.until(f"!{told}", "it is over")
        assert tab.problems == []


async def test_who_only_looks_is_offered_no_action(browser: Browser, looked: Looked) -> None:
    async with looked.client("umbrella") as client, page_of(browser, looked, "read") as tab:
        await client.fetchval("SELECT 1")
        await opened(tab, "umbrella")
        assert await tab.evaluate("document.querySelectorAll('#drawer-actions button').length") == 0
        assert "action" not in await tab.evaluate(text_of("drawer-body"))


async def test_a_client_is_ended_once_it_is_confirmed_and_the_log_names_who_did(
    browser: Browser, looked: Looked
) -> None:
    end = "[...document.querySelectorAll('#drawer-body button')].find((each) => each.textContent === 'end')"
    async with looked.client("umbrella") as client, page_of(browser, looked, "operate") as tab:
        await client.fetchval("SELECT 1")
        await opened(tab, "umbrella")
        await clicked(tab, end)
        await tab.until("document.getElementById('confirm').open", "it asks first")
        await clicked(tab, "document.getElementById('confirm-no')")
        assert await client.fetchval("SELECT 1") == 1, "it was not confirmed"
        await clicked(tab, end)
        await clicked(tab, "document.getElementById('confirm-yes')")
        await tab.until(f"{text_of('drawer-state')} === 'end: done'", "it is done")
        await until(client.is_closed, "the client is ended")
        await clicked(tab, "document.querySelector('#drawer-actions button')")
        await tab.until("document.getElementById('confirm').open", "it asks for this one too")
        await clicked(tab, "document.getElementById('confirm-yes')")
        await tab.until(f"{text_of('drawer-state')} === 'evict: done'", "its connections were closed")
    told = looked.log.read_text()
    assert '"change": "DELETE /v1/clients/{client}"' in told
    assert '"by": "the_operate"' in told
    assert looked.tokens["operate"] not in told


async def test_a_tenant_is_paused_drained_killed_and_resumed_at_the_port_on_the_page(
    browser: Browser, looked: Looked
) -> None:
    async with looked.client("umbrella") as client, page_of(browser, looked, "operate") as tab:
        assert await client.fetchval("SELECT 1") == 1
        await opened(tab, "umbrella")
        await confirmed(tab, "pause umbrella at the PostgreSQL port", "pause: done")
        await tab.until(f"{text_of('drawer-body')}.includes('Paused at the PostgreSQL port')", "it says so")
        waits = asyncio.ensure_future(client.fetchval("SELECT 1"))
        await tab.until(f"{text_of('drawer-body')}.includes('waiting')", "its client waits")
        await tab.until(f"{text_of('counts')}.includes('umbrella')", "the page says who is paused")
        await confirmed(tab, "resume umbrella at the PostgreSQL port", "resume: done")
        assert await waits == 1
        await confirmed(tab, "drain umbrella at the PostgreSQL port", "drain: done")
        await until(client.is_closed, "its client had nothing under way, and was let go")
        async with looked.client("umbrella") as other:
            begun = other.transaction()
            await begun.start()
            await confirmed(tab, "kill umbrella at the PostgreSQL port", "kill: done")
            await until(other.is_closed, "its client is ended in its transaction")
        await confirmed(tab, "resume umbrella at the PostgreSQL port", "resume: done")
        async with looked.client("umbrella") as again:
            assert await again.fetchval("SELECT 1") == 1
        assert tab.problems == []
    told = looked.log.read_text()
    for verb in ("pause", "resume", "drain", "kill"):
        assert f'"change": "POST /v1/pools/{{tenant}}/{verb}"' in told


async def confirmed(tab: Tab, what: str, said: str) -> None:
    """Press the button of that name and say yes; returns when the drawer says that."""
    await clicked(tab, f"document.querySelector('#drawer [aria-label=\"{what}\"]')")
    await tab.until("document.getElementById('confirm').open", "it asks first")
    await clicked(tab, "document.getElementById('confirm-yes')")
    await tab.until(f"{text_of('drawer-state')} === '{said}'", f"the drawer says {said}")


async def test_what_is_done_to_the_process_is_offered_to_the_role_admin_alone(browser: Browser, looked: Looked) -> None:
    shown = "[...document.querySelectorAll('#process-actions button')].map((each) => each.textContent)"
    async with page_of(browser, looked, "admin") as tab:
        await tab.until(f"{shown}.length > 0", "it is offered")
        assert await tab.evaluate(shown) == ["reload", "restart", "upgrade", "drain"]
        await clicked(tab, "document.querySelector('#process-actions button')")
        await tab.until("document.getElementById('confirm').open", "it asks first")
        await clicked(tab, "document.getElementById('confirm-yes')")
        await tab.until(f"{text_of('process-state')} === 'reload: done'", "it was done")
    described = "performance.getEntriesByType('resource').some((each) => each.name.endsWith('openapi.json'))"
    async with page_of(browser, looked, "operate") as tab:
        await tab.until(described, "the page knows what its role may do")
        assert await tab.evaluate("document.getElementById('process').hidden")


async def test_the_page_is_used_by_keyboard_alone(browser: Browser, looked: Looked) -> None:
    async with looked.client("umbrella") as client, page_of(browser, looked, "read") as tab:
        await client.fetchval("SELECT 1")
        await tab.until(f"{ROWS}.length > 0", "there are tenants")
        await tab.press("/")
        await tab.write("umbrella")
        await tab.until(f"{ROWS}.length === 1 && document.activeElement.id === 'filter'", "the filter leaves one")
        await tab.evaluate(f"{ROWS}[0].focus()")
        await tab.press("ArrowDown")
        assert await tab.evaluate("document.activeElement.textContent") == "umbrella", "there is no other"
        await tab.press("Enter")
        await tab.until("document.getElementById('drawer').open", "Enter opens it")
        await tab.press("Escape")
        await tab.until("!document.getElementById('drawer').open", "Escape closes it")
        assert await tab.evaluate("document.activeElement.textContent") == "umbrella", "and the focus is where it was"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
async def test_the_page_is_accessible_in_both_colours_and_on_a_phone(
    browser: Browser, looked: Looked, width: int, dark: bool
) -> None:
    async with looked.client("umbrella") as client, page_of(browser, looked, "operate", width=width, dark=dark) as tab:
        await client.fetchval("SELECT 1")
        await tab.until(f"{ROWS}.length > 0", "there are tenants")
        assert await accessible(tab) == []
        assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it need not be moved sideways"
        await opened(tab, "umbrella")
        assert await accessible(tab) == []
        await clicked(tab, "document.querySelector('#drawer-actions button')")
        await tab.until("document.getElementById('confirm').open", "it asks first")
        assert await accessible(tab) == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bare(browser: Browser, looked: Looked) -> AsyncIterator[Tab]:
    """The page, with nothing given."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(browser.tab(f"{looked.served.admin}/"))


async def test_a_wrong_token_is_said_to_be_wrong_and_asked_for_again(bare: Tab) -> None:
    await bare.until("document.getElementById('login').open", "it asks for the token")
    assert await accessible(bare) == []
    await bare.evaluate("document.getElementById('token').focus()")
    await bare.write("wrong")
    await bare.press("Enter")
    await bare.until(f"{text_of('login-text')}.includes('not one of')", "it says so")
    assert await bare.evaluate("document.getElementById('token').value") == ""
    assert await bare.evaluate("document.cookie + localStorage.length + sessionStorage.length") == "00"


async def test_of_ten_thousand_rows_those_in_sight_are_in_the_page(bare: Tab) -> None:
    script = """(async () => {
      const { PoolTable } = await import('/page/table.js');
      const scroll = document.createElement('div');
      scroll.style.height = '400px'; scroll.style.overflow = 'auto';
      const root = document.createElement('table');
      root.append(document.createElement('thead'), document.createElement('tbody'));
      scroll.append(root); document.body.append(scroll);
      const table = new PoolTable(root, scroll, () => {});
      const rows = {};
      for (let n = 0; n < 10000; n += 1)
        rows[n] = ['t' + String(n).padStart(5, '0'), 'tenant', 's', 'd', 9, 1, n % 7, 0, 0, 0, n % 3, n / 10, n];
      const columns = ['pool', 'kind', 'server', 'database', 'limit', 'idle', 'used', 'opening', 'resetting',
        'retiring', 'waiting', 'oldest', 'used_at'];
      table.take(columns, rows, [], true);
      const top = root.tBodies[0].rows[1].textContent;
      table.sort = { column: 0, down: false }; table.arrange();
      scroll.scrollTop = 5000 * 30; table.draw();
      const seen = [...root.querySelectorAll('button')].map((each) => each.textContent);
      const height = scroll.scrollHeight;
      table.take(columns, {}, Object.keys(rows).slice(1), false);
      scroll.remove();
      return { top, count: seen.length, has: seen.includes('t05000'), height, left: table.list.length };
    })()"""
    found = await bare.evaluate(script)
    assert found["top"].startswith("t")
    assert found["count"] < 100
    assert found["has"]
    assert found["height"] >= 10_000 * 30
    assert found["left"] == 1


async def test_a_row_that_changes_is_written_alone_and_lines_are_used_again(bare: Tab) -> None:
    script = """(async () => {
      const { RowsInSight } = await import('/page/rows.js');
      const scroll = document.createElement('div');
      scroll.style.height = '300px'; scroll.style.overflow = 'auto';
      const body = document.createElement('tbody'), root = document.createElement('table');
      root.append(body); scroll.append(root); document.body.append(scroll);
      const rows = [...Array(600).keys()].map((n) => ({ id: n, name: `client ${n}`, seconds: 0 }));
      const columns = [['name', '', (row) => row.name], ['for', '', (row) => String(row.seconds)]];
      const table = new RowsInSight(body, scroll, columns);
      table.show(rows);
      const lines = new Set(body.rows);
      const writes = new MutationObserver(() => {});
      writes.observe(body, { subtree: true, childList: true, characterData: true, attributes: true });
      table.show(rows.map((row) => (row.id === 3 ? { ...row, seconds: 1 } : { ...row })));
      const count = writes.takeRecords().length;
      scroll.scrollTop = 400 * 30; table.draw();
      const texts = [...body.rows].map((line) => line.textContent);
      const isNew = [...body.rows].some((line) => !lines.has(line));
      table.close(); scroll.remove();
      return { count, isNew, lines: lines.size, has: texts.includes('client 4000') };
    })()"""
    found = await bare.evaluate(script)
    assert found["count"] == 1
    assert found["lines"] < 50
    assert found["has"]
    assert not found["isNew"]


async def test_the_budget_is_told_by_process_and_says_which_are_this_service_s_own(bare: Tab) -> None:
    script = """(async () => {
      const { byProcess } = await import('/page/shares.js');
      const box = document.createElement('details');
      box.append(document.createElement('summary'), document.createElement('div'));
      box.open = true; document.querySelector('#servers').append(box);
      document.getElementById('login').close();
      byProcess(box, 'primary', [['primary', '0123456789ab', true, 'live', 12, 7, 9.5, null],
        ['primary', 'fedcba987654', false, 'silent', 8, 8, 0, 21]]);
      const table = box.querySelector('table'); byProcess(box, 'primary', JSON.parse(box.dataset.shown));
      return [table === box.querySelector('table'), box.children[0].textContent,
        ...[...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent).join('|'))];
    })()"""
    assert await bare.evaluate(script) == [
        True, "By process (2)", "01234567, this service|live|12|7|9.5", "fedcba98|silent for 21.0 s|8|8|0"
    ]  # fmt: skip
    assert await accessible(bare) == []


async def test_quantiles_are_found_within_their_bucket(bare: Tab) -> None:
    script = """(async () => {
      const { quantile, shown } = await import('/page/lines.js');
      return [quantile([1, 2, 4], [0, 0, 0, 0], .5), quantile([1, 2, 4], [0, 10, 0, 0], .5),
        quantile([1, 2, 4], [98, 0, 0, 2], .99), quantile([1, 2, 4], [10, 10, 0, 0], .5),
        shown(.0012), shown(.25), shown(3)];
    })()"""
    assert await bare.evaluate(script) == [None, 1.5, 4, 1, "1.2 ms", "250 ms", "3.0 s"]
