"""Do the console's tables say what is, in PgBouncer's columns?"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tenantproxy.metrics.pg import LimitUsage
from tenantproxy.sidecar.pg.console.tables import INT4, NUMERIC, TABLES, TEXT, Averages, Cell
from tenantproxy.sidecar.pg.console.view import Counts, ServerRow
from tests.support.console import View, client, pool, tenant

# Of its release 1.25, without what stands at the end for older exporters.
PGBOUNCER: Mapping[str, str] = {
    "POOLS": "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active sv_active_cancel"
    " sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode load_balance_hosts",
    "DATABASES": "name host port database force_user pool_size min_pool_size reserve_pool_size server_lifetime"
    " pool_mode load_balance_hosts max_connections current_connections max_client_connections"
    " current_client_connections paused disabled",
    "CLIENTS": "type user database replication state addr port local_addr local_port connect_time request_time wait"
    " wait_us close_needed ptr link remote_pid tls application_name prepared_statements id",
    "STATS": "database total_server_assignment_count total_xact_count total_query_count total_received total_sent"
    " total_xact_time total_query_time total_wait_time total_client_parse_count total_server_parse_count"
    " total_bind_count total_client_login_count avg_server_assignment_count avg_xact_count avg_query_count avg_recv"
    " avg_sent avg_xact_time avg_query_time avg_wait_time avg_client_parse_count avg_server_parse_count avg_bind_count"
    " avg_client_login_count",
    "STATS_TOTALS": "database server_assignment_count xact_count query_count bytes_received bytes_sent xact_time"
    " query_time wait_time client_parse_count server_parse_count bind_count client_login_count",
    "STATS_AVERAGES": "database server_assignment_count xact_count query_count bytes_received bytes_sent xact_time"
    " query_time wait_time avg_client_parse_count avg_server_parse_count avg_bind_count avg_client_login_count",
    "LISTS": "list items",
    "USERS": "name pool_size reserve_pool_size pool_mode max_user_connections current_connections"
    " max_user_client_connections current_client_connections",
    "CONFIG": "key value default changeable",
    "VERSION": "version",
    "STATE": "key value",
}
PGBOUNCER_LISTS = (
    "databases users peers pools peer_pools free_clients used_clients login_clients free_servers used_servers dns_names"
    " dns_zones dns_queries dns_pending"
)


def shown(view: View, name: str, averages: Averages | None = None) -> list[dict[str, Cell]]:
    table = TABLES[name]
    found = [dict(zip(table.columns, row, strict=True)) for row in table.rows(view, averages or Averages())]
    for row in found:
        for (column, value), kind in zip(row.items(), table.types, strict=True):
            assert value is None or isinstance(value, str if kind == TEXT else int), column
    return found


@pytest.fixture
def view() -> View:
    """One tenant with a database of its own, two row tenants in a shared one, and the main pool."""
    view = View()
    view.pools = [
        pool("primary/main", tenant("main", leased=1), used=1, idle=1),
        pool("acme", tenant("acme", leased=2, waiting=1, wait=1.25), used=2, idle=3, opening=1, resetting=1),
        pool(
            "primary/shared",
            tenant("beta", leased=1),
            tenant("gamma", waiting=2, wait=0.5),
            shared=True,
            used=1,
            idle=4,
        ),
    ]
    view.shown_clients = [
        client(1, server_id=9), client(2, state="waiting", waiting_seconds=1.25), client(3, "gamma", state="waiting"),
        client(4, "delta", pool_mode="session"), client(5, None, user="ops"),
    ]  # fmt: skip
    return view


@pytest.mark.parametrize("name", PGBOUNCER)
def test_a_table_has_pgbouncers_columns_in_its_order(name: str) -> None:
    wanted = tuple(PGBOUNCER[name].split())
    assert TABLES[name].columns[: len(wanted)] == wanted


def test_columns_that_older_exporters_ask_for_stand_at_the_end() -> None:
    assert TABLES["STATS"].columns[-1] == "total_requests"
    assert TABLES["DATABASES"].columns[-1] == "reserve_pool"
    assert TABLES["SERVERS"].columns == TABLES["CLIENTS"].columns


def test_types_are_pgbouncers() -> None:
    assert TABLES["STATS"].types == (TEXT, *[NUMERIC] * 25)
    assert TABLES["LISTS"].types == (TEXT, INT4)
    assert TABLES["POOLS"].types == (TEXT, TEXT, *[INT4] * 13, TEXT, TEXT)


def test_pools_are_told_by_tenant_and_the_rest_of_a_shared_pool_by_itself(view: View) -> None:
    rows = {row["database"]: row for row in shown(view, "POOLS")}
    assert set(rows) == {"primary/main", "acme", "beta", "gamma", "delta", "primary/shared"}
    acme = rows["acme"]
    assert [acme[name] for name in ("cl_active", "cl_waiting", "sv_active", "sv_idle", "sv_tested", "sv_login")] == [
        1, 1, 2, 3, 1, 1,
    ]  # fmt: skip
    assert (acme["maxwait"], acme["maxwait_us"], acme["user"]) == (1, 250_000, "app")
    assert (rows["beta"]["sv_active"], rows["gamma"]["cl_waiting"], rows["gamma"]["maxwait_us"]) == (1, 1, 500_000)
    assert (rows["primary/shared"]["sv_active"], rows["primary/shared"]["sv_idle"]) == (0, 4)
    assert (rows["delta"]["pool_mode"], acme["pool_mode"]) == ("session", "transaction")
    assert rows["primary/main"]["sv_active"] == 1


def test_the_connections_of_all_pools_add_up(view: View) -> None:
    rows = shown(view, "POOLS")
    assert sum(int(row["sv_active"] or 0) for row in rows) == sum(one.used for one in view.pools)
    assert sum(int(row["sv_idle"] or 0) for row in rows) == sum(one.idle for one in view.pools)


def test_a_tenant_with_several_pools_is_one_row_for_labels_must_be_distinct(view: View) -> None:
    view.pools.append(pool("acme", tenant("acme", leased=1), used=1, idle=1))
    rows = [row for row in shown(view, "POOLS") if row["database"] == "acme"]
    assert [(row["sv_active"], row["sv_idle"]) for row in rows] == [(3, 4)]


def test_tenants_are_those_with_a_client_a_connection_or_a_pause(view: View) -> None:
    view.stopped.add("omega")
    rows = {row["tenant"]: row for row in shown(view, "TENANTS")}
    assert list(rows) == ["acme", "beta", "delta", "gamma", "omega"]
    acme = rows["acme"]
    assert (acme["clients"], acme["leased"], acme["waiting"], acme["maxwait_us"], acme["max_size"]) == (
        2, 2, 1, 1_250_000, 5,
    )  # fmt: skip
    assert (acme["acquired"], acme["timed_out"], acme["rejected"], acme["paused"]) == (7, 2, 1, 0)
    assert (rows["omega"]["paused"], rows["omega"]["clients"], rows["omega"]["max_size"]) == (1, 0, None)


def test_a_database_is_one_row_whoever_shares_it(view: View) -> None:
    view.stopped.add("acme")
    rows = {row["name"]: row for row in shown(view, "DATABASES")}
    assert set(rows) == {"tenantproxy", "acme", "primary/shared", "primary/main"}
    acme, shared = rows["acme"], rows["primary/shared"]
    assert (acme["host"], acme["port"], acme["database"], acme["force_user"]) == ("db.example.com", 5433, "acme", "app")
    assert (acme["pool_size"], acme["current_connections"], acme["paused"]) == (10, 7, 1)
    assert acme["current_client_connections"] == 2
    assert (shared["database"], shared["current_connections"], shared["paused"]) == ("shared", 5, 0)
    assert rows["tenantproxy"]["current_client_connections"] == 1
    assert len({row["database"] for row in rows.values()}) == len(rows)


def test_clients_of_a_shared_pool_are_counted_where_their_pool_is_known(view: View) -> None:
    view.shown_clients = [client(1, "beta", pool="primary/shared"), client(2, "gamma", pool="primary/shared")]
    rows = {row["name"]: row for row in shown(view, "DATABASES")}
    assert rows["primary/shared"]["current_client_connections"] == 2


def test_clients_and_servers_name_each_other(view: View) -> None:
    view.shown_servers = [
        ServerRow(
            id=9, server="primary", user="app", database="acme", tenant="acme", state="active", address="10.0.0.1",
            port=5432, local_address="10.0.0.2", local_port=40000, connected_at=0.0, pid=4711, client_id=1,
        ),
        ServerRow(
            id=10, server="primary", user="app", database="shared", tenant=None, state="idle", address="10.0.0.1",
            port=5432, local_address="10.0.0.2", local_port=40001, connected_at=0.0, requested_at=86_400.5,
        ),
    ]  # fmt: skip
    clients, (busy, idle) = shown(view, "CLIENTS"), shown(view, "SERVERS")
    assert (clients[0]["link"], clients[0]["ptr"]) == (busy["ptr"], busy["link"])
    assert (busy["type"], busy["database"], busy["remote_pid"], busy["state"]) == ("S", "acme", 4711, "active")
    assert (idle["database"], idle["link"], idle["request_time"]) == ("primary/shared", "", "1970-01-02 00:00:00 UTC")
    assert [row["database"] for row in clients[3:]] == ["delta", "tenantproxy"]
    assert (clients[1]["wait"], clients[1]["wait_us"], clients[1]["request_time"]) == (1, 250_000, "")


def test_statistics_are_counted_in_microseconds_and_averaged_over_a_period(view: View) -> None:
    now = 1000.0
    averages = Averages(clock=lambda: now)
    view.counted = {"acme": Counts(queries=100, transactions=50, received=6000, query_seconds=2.0, leases=10)}
    now += 10
    (row,) = shown(view, "STATS", averages)
    assert (row["total_query_count"], row["total_requests"], row["total_query_time"]) == (100, 100, 2_000_000)
    assert (row["avg_query_count"], row["avg_query_time"], row["avg_recv"]) == (10, 20_000, 600)
    now += 60
    shown(view, "STATS", averages)
    view.counted = {"acme": Counts(queries=400, transactions=50, received=6000, query_seconds=2.3, leases=10)}
    now += 60
    (row,) = shown(view, "STATS", averages)
    now += 10
    (row,) = shown(view, "STATS", averages)
    assert (row["total_query_count"], row["avg_query_count"], row["avg_query_time"]) == (400, 4, 1000)
    assert (row["avg_xact_count"], row["avg_xact_time"], row["avg_wait_time"]) == (0, 0, 0)
    (totals,) = shown(view, "STATS_TOTALS", averages)
    assert (totals["query_count"], totals["bytes_received"]) == (400, 6000)
    (average,) = shown(view, "STATS_AVERAGES", averages)
    assert average["query_count"] == 4


def test_lists_have_every_count_that_exporters_ask_for(view: View) -> None:
    lists = {row["list"]: row["items"] for row in shown(view, "LISTS")}
    assert " ".join(map(str, lists)) == PGBOUNCER_LISTS
    assert (lists["users"], lists["pools"], lists["used_clients"], lists["login_clients"]) == (2, 3, 5, 0)
    assert lists["used_servers"] == 2 + 7 + 5


def test_limits_are_shown_with_who_uses_most_of_them(view: View) -> None:
    view.limited = [LimitUsage("max_clients", 12, 7, "", 0), LimitUsage("max_clients_per_tenant", 6, 6, "acme", 2)]
    rows = {row["limit"]: row for row in shown(view, "LIMITS")}
    assert rows["max_clients_per_tenant"] == {
        "limit": "max_clients_per_tenant", "value": 6, "used": 6, "holder": "acme", "refused": 2,
    }  # fmt: skip
    assert rows["max_clients"]["holder"] == ""


def test_connections_before_their_login_are_pgbouncers_login_clients(view: View) -> None:
    view.unauthenticated = 4
    assert {row["list"]: row["items"] for row in shown(view, "LISTS")}["login_clients"] == 4


def test_users_are_those_configured_with_their_connections(view: View) -> None:
    rows = {row["name"]: row for row in shown(view, "USERS")}
    assert set(rows) == {"billing", "ops"}
    assert (rows["billing"]["current_client_connections"], rows["billing"]["current_connections"]) == (4, 1)


def test_the_configuration_is_shown_without_its_secrets(view: View) -> None:
    rows = {str(row["key"]): row for row in shown(view, "CONFIG")}
    assert (rows["pools.max_size"]["value"], rows["pools.max_size"]["default"]) == ("10", "10")
    assert (rows["max_client_conn"]["value"], rows["pg.max_clients"]["changeable"]) == ("10000", "yes")
    assert rows["pg.listen"]["changeable"] == "no"
    assert rows["pg.users.ops.console"]["changeable"] == "yes"
    assert all("sesame" not in str(row) for row in rows.values())


def test_an_empty_port_shows_empty_tables() -> None:
    for name in TABLES:
        shown(View(), name)
    assert shown(View(), "POOLS") == []
    assert [row["name"] for row in shown(View(), "DATABASES")] == ["tenantproxy"]


def test_the_configuration_says_which_data_path_runs() -> None:
    view = View()
    view.data_path = "pure Python: there is no C compiler (cc)"
    (row,) = (row for row in shown(view, "CONFIG") if row["key"] == "data_path")
    assert row["value"] == "pure Python: there is no C compiler (cc)"
    assert (row["default"], row["changeable"]) == ("compiled", "no")
