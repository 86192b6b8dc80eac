// What must hold for every client behind the port: the checks of checks.py, for JDBC.
// Reads its seats from stdin, one per line as `key<TAB>value<TAB>key<TAB>value...`, prints one JSON object per check.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.io.StringReader;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.security.SecureRandom;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.PGStatement;
import org.postgresql.copy.CopyManager;

public final class Matrix {
    private static final String NAMES = "SELECT name FROM projects ORDER BY name";
    private static final SecureRandom RANDOM = new SecureRandom();

    private interface Check {
        void run(Map<String, String> seat) throws Exception;
    }

    private interface Action {
        void run() throws Exception;
    }

    public static void main(String[] args) throws Exception {
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        Map<String, Check> checks = new LinkedHashMap<>();
        checks.put("own_rows", Matrix::ownRows);
        checks.put("transactions", Matrix::transactions);
        checks.put("prepared", Matrix::prepared);
        checks.put("errors", Matrix::errors);
        checks.put("cancel", Matrix::cancel);
        checks.put("late_cancel", Matrix::lateCancel);
        checks.put("copy", Matrix::copy);
        checks.put("settings", Matrix::settings);
        checks.put("listen", Matrix::listen);
        checks.put("big_results", Matrix::bigResults);
        checks.put("other_tenants", Matrix::otherTenants);
        checks.put("batch", Matrix::batch);
        checks.put("modes", Matrix::modes);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] fields = line.split("\t", -1);
            Map<String, String> seat = new HashMap<>();
            for (int n = 0; n + 1 < fields.length; n += 2) seat.put(fields[n], fields[n + 1]);
            for (Map.Entry<String, Check> each : checks.entrySet()) {
                String failed = null;
                try {
                    each.getValue().run(seat);
                } catch (Throwable error) {
                    StringWriter text = new StringWriter();
                    error.printStackTrace(new PrintWriter(text));
                    failed = text.toString();
                }
                out.println("{\"check\":" + json(each.getKey()) + ",\"kind\":" + json(seat.get("kind"))
                    + ",\"ok\":" + (failed == null) + (failed == null ? "" : ",\"error\":" + json(failed)) + "}");
            }
        }
        System.exit(0); // whatever a failed check left behind
    }

    private static String json(String text) {
        StringBuilder quoted = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c < ' ' || c == '"' || c == '\\' || c > '~') quoted.append(String.format("\\u%04x", (int) c));
            else quoted.append(c);
        }
        return quoted.append('"').toString();
    }

    // --- what the checks stand on ------------------------------------------------------------------------------------
    private static Connection connect(Map<String, String> seat, String tenant, String user) throws SQLException {
        Properties given = new Properties();
        given.setProperty("user", user);
        given.setProperty("password", seat.get("password"));
        given.setProperty("prepareThreshold", "3");
        given.setProperty("connectTimeout", "30");
        return DriverManager.getConnection(
            "jdbc:postgresql://" + seat.get("host") + ":" + seat.get("port") + "/" + tenant, given);
    }

    private static Connection connect(Map<String, String> seat) throws SQLException {
        return connect(seat, seat.get("tenant"), seat.get("user"));
    }

    private static Connection crowded(Map<String, String> seat) throws SQLException {
        return connect(seat, seat.get("crowded"), seat.get("user"));
    }

    private static List<String> column(Connection conn, String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = conn.prepareStatement(sql)) {
            for (int n = 0; n < values.length; n++) statement.setObject(n + 1, values[n]);
            List<String> found = new ArrayList<>();
            try (ResultSet rows = statement.executeQuery()) {
                while (rows.next()) found.add(rows.getString(1));
            }
            return found;
        }
    }

    private static String one(Connection conn, String sql, Object... values) throws SQLException {
        return column(conn, sql, values).get(0);
    }

    private static void run(Connection conn, String sql) throws SQLException {
        try (Statement statement = conn.createStatement()) {
            statement.execute(sql);
        }
    }

    private static void same(Object found, Object expected) {
        if (!expected.equals(found)) throw new AssertionError("expected " + expected + ", found " + found);
    }

    private static void fails(String state, Action action) throws Exception {
        try {
            action.run();
        } catch (SQLException error) {
            same(error.getSQLState(), state);
            return;
        }
        throw new AssertionError("it did not fail with " + state);
    }

    private static String mark() {
        return Long.toHexString(RANDOM.nextLong() | Long.MIN_VALUE);
    }

    private static List<String> rows(String tenant) {
        return List.of(tenant + " 1", tenant + " 2", tenant + " 3");
    }

    private static CompletableFuture<String> later(Connection conn, String sql) {
        CompletableFuture<String> done = new CompletableFuture<>();
        Thread thread = new Thread(() -> {
            try {
                done.complete(one(conn, sql));
            } catch (Throwable error) {
                done.completeExceptionally(error);
            }
        });
        thread.setDaemon(true);
        thread.start();
        return done;
    }

    // --- the checks --------------------------------------------------------------------------------------------------
    private static void ownRows(Map<String, String> seat) throws Exception {
        try (Connection mine = connect(seat, seat.get("tenant"), seat.get("guest"));
                Connection other = connect(seat, seat.get("other"), seat.get("guest"))) {
            for (int turn = 0; turn < 8; turn++) {
                same(column(mine, NAMES), rows(seat.get("tenant")));
                same(column(other, NAMES), rows(seat.get("other")));
            }
        }
    }

    private static void transactions(Map<String, String> seat) throws Exception {
        String body = mark();
        String count = "SELECT count(*) FROM notes WHERE body = ?";
        try (Connection conn = connect(seat); Connection other = connect(seat)) {
            conn.setAutoCommit(false);
            run(conn, "INSERT INTO notes (body) VALUES ('" + body + "')");
            same(one(conn, count, body), "1");
            same(one(other, count, body), "0");
            conn.rollback();
            same(one(conn, count, body), "0");
            run(conn, "INSERT INTO notes (body) VALUES ('" + body + "')");
            Savepoint here = conn.setSavepoint();
            run(conn, "INSERT INTO notes (body) VALUES ('" + body + "')");
            conn.rollback(here);
            conn.commit();
            conn.setAutoCommit(true);
            same(one(other, count, body), "1");
            conn.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            conn.setReadOnly(true);
            conn.setAutoCommit(false);
            same(one(conn, "SHOW transaction_isolation"), "serializable");
            fails("25006", () -> run(conn, "DELETE FROM notes WHERE body = '" + body + "'"));
            conn.rollback();
            run(other, "DELETE FROM notes WHERE body = '" + body + "'");
            same(one(other, count, body), "0");
        }
    }

    private static void prepared(Map<String, String> seat) throws Exception {
        List<Set<String>> pids = List.of(new HashSet<>(), new HashSet<>(), new HashSet<>());
        List<Connection> conns = new ArrayList<>();
        List<PreparedStatement> sums = new ArrayList<>();
        try {
            for (int number = 0; number < 3; number++) {
                conns.add(crowded(seat));
                // S_1 in each of them; on the server from the fourth execution on
                sums.add(conns.get(number).prepareStatement(
                    "SELECT CAST(? AS int) + " + 1000 * number + ", CAST(? AS text), pg_backend_pid()"));
            }
            for (int turn = 0; turn < 12; turn++) {
                for (int number = 0; number < 3; number++) {
                    Connection conn = conns.get(number);
                    conn.setAutoCommit(turn % 3 != 2);
                    PreparedStatement sum = sums.get(number);
                    sum.setInt(1, turn);
                    sum.setString(2, "text " + turn);
                    try (ResultSet found = sum.executeQuery()) {
                        found.next();
                        same(found.getInt(1), turn + 1000 * number);
                        same(found.getString(2), "text " + turn);
                        pids.get(number).add(found.getString(3));
                    }
                    List<String> names = column(
                        conn, "SELECT name FROM projects WHERE name <> ? AND " + number + " = " + number, "-");
                    same(new HashSet<>(names), new HashSet<>(rows(seat.get("crowded"))));
                    if (turn % 3 == 2) conn.commit();
                }
            }
            same(sums.get(0).unwrap(PGStatement.class).isUseServerPrepare(), true);
        } finally {
            for (Connection conn : conns) conn.close();
        }
        if (seat.get("mode").equals("transaction")) {
            Set<String> shared = new HashSet<>(pids.get(0));
            shared.retainAll(pids.get(1));
            shared.retainAll(pids.get(2));
            same(shared.isEmpty(), false);
        }
    }

    private static void errors(Map<String, String> seat) throws Exception {
        try (Connection conn = connect(seat)) {
            fails("22012", () -> run(conn, "SELECT 1/0"));
            fails("42P01", () -> run(conn, "SELECT * FROM nothing_here"));
            fails("42601", () -> run(conn, "SELEC 1"));
            String name = rows(seat.get("tenant")).get(0);
            fails("23505", () -> run(conn, "INSERT INTO projects (name) VALUES ('" + name + "')"));
            try (PreparedStatement divide = conn.prepareStatement("SELECT 1 / CAST(? AS int)")) {
                for (int turn = 0; turn < 6; turn++) {
                    divide.setInt(1, 0);
                    fails("22012", divide::executeQuery);
                    divide.setInt(1, 1);
                    divide.executeQuery().close();
                }
                conn.setAutoCommit(false);
                divide.setInt(1, 0);
                fails("22012", divide::executeQuery);
                fails("25P02", () -> run(conn, "SELECT 8"));
                conn.rollback();
                conn.setAutoCommit(true);
                divide.setInt(1, 1);
                divide.executeQuery().close();
            }
        }
    }

    private static void cancel(Map<String, String> seat) throws Exception {
        long victims = RANDOM.nextInt(1 << 30), bystanders = victims + 1, held = victims + 2;
        try (Connection victim = connect(seat); Connection bystander = connect(seat);
                Connection keeper = connect(seat); Connection probe = connect(seat)) {
            keeper.setAutoCommit(false);
            run(keeper, "SELECT pg_advisory_xact_lock(" + held + ")");
            String waits = "SELECT CAST(pg_advisory_xact_lock(%d) AS text) || CAST(pg_advisory_xact_lock(%d) AS text)"
                + " || 'unharmed'";
            CompletableFuture<String> asleep = new CompletableFuture<>();
            Statement sleeping = victim.createStatement();
            Thread thread = new Thread(() -> {
                try {
                    sleeping.executeQuery(String.format(waits, victims, held));
                    asleep.complete("was not cancelled");
                } catch (SQLException error) {
                    asleep.complete(error.getSQLState());
                }
            });
            thread.setDaemon(true);
            thread.start();
            CompletableFuture<String> concurrent = later(bystander, String.format(waits, bystanders, held));
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(20);
            for (long key : new long[] {victims, bystanders}) {
                while (one(probe, "SELECT pg_try_advisory_xact_lock(" + key + ")").equals("t")) {
                    if (System.nanoTime() > deadline) throw new AssertionError("after 20 s the statements do not run");
                    Thread.sleep(10);
                }
            }
            sleeping.cancel();
            same(asleep.get(20, TimeUnit.SECONDS), "57014");
            keeper.commit();
            same(concurrent.get(20, TimeUnit.SECONDS), "unharmed");
            same(one(victim, "SELECT 7"), "7");
        }
    }

    private static void lateCancel(Map<String, String> seat) throws Exception {
        try (Connection late = crowded(seat); Connection working = crowded(seat)) {
            same(one(late, "SELECT 7"), "7");
            working.setAutoCommit(false);
            same(one(working, "SELECT 8"), "8");
            CompletableFuture<String> sleeping =
                later(working, "SELECT CAST(pg_sleep(0.3) AS text) || 'unharmed'");
            late.unwrap(PGConnection.class).cancelQuery();
            same(sleeping.get(20, TimeUnit.SECONDS), "unharmed");
            working.commit();
        }
    }

    private static void copy(Map<String, String> seat) throws Exception {
        String mark = mark();
        StringBuilder text = new StringBuilder(mark + " a\\tb\n" + mark + " back\\\\slash\n" + mark + " \u6f22\u5b57\n");
        List<String> numbered = new ArrayList<>();
        for (int n = 0; n < 3000; n++) {
            numbered.add(String.format("%s %05d %s", mark, n, "y".repeat(200)));
            text.append(numbered.get(n)).append('\n');
        }
        try (Connection conn = connect(seat)) {
            CopyManager copies = conn.unwrap(PGConnection.class).getCopyAPI();
            String into = "COPY " + seat.get("copy_into") + " (body) FROM STDIN";
            same(copies.copyIn(into, new StringReader(text.toString())) >= 0, true);
            Set<String> odd = Set.of(mark + " a\tb", mark + " back\\slash", mark + " \u6f22\u5b57");
            String some = "SELECT body FROM notes WHERE body LIKE ? AND length(body) < 100";
            same(new HashSet<>(column(conn, some, mark + "%")), odd);
            StringWriter back = new StringWriter();
            String query = "SELECT body FROM notes WHERE body LIKE '" + mark + " 0%' ORDER BY body";
            copies.copyOut("COPY (" + query + ") TO STDOUT", back);
            same(List.of(back.toString().split("\n")), numbered);
            fails("42P01", () -> copies.copyIn("COPY nothing_here (body) FROM STDIN", new StringReader("x\n")));
            if (seat.get("kind").equals("row")) {
                fails("0A000", () -> copies.copyIn("COPY notes (body) FROM STDIN", new StringReader("x\n")));
            }
            // Given up in the middle.
            org.postgresql.copy.CopyIn begun = copies.copyIn(into);
            byte[] line = (mark + " gone\n").getBytes(StandardCharsets.UTF_8);
            begun.writeToCopy(line, 0, line.length);
            begun.cancelCopy();
            same(one(conn, "SELECT count(*) FROM notes WHERE body LIKE ?", mark + "%"), "3003");
            run(conn, "DELETE FROM notes WHERE body LIKE '" + mark + "%'");
        }
    }

    private static void settings(Map<String, String> seat) throws Exception {
        String[][] wanted = {
            {"TimeZone", "Europe/Vienna", "application_name", "first", "extra_float_digits", "0"},
            {"TimeZone", "Asia/Tokyo", "application_name", "second", "extra_float_digits", "2"},
            {"TimeZone", "UTC", "application_name", "third", "extra_float_digits", "-1"},
        };
        String schema = seat.get("crowded_schema");
        String[] paths = {schema + ", pg_catalog", schema, "pg_catalog, " + schema};
        List<Connection> conns = new ArrayList<>();
        try {
            for (int n = 0; n < 3; n++) {
                conns.add(crowded(seat));
                for (int at = 0; at < 6; at += 2) {
                    run(conns.get(n), "SET " + wanted[n][at] + " = '" + wanted[n][at + 1] + "'");
                }
                run(conns.get(n), "SET search_path TO " + paths[n]);
            }
            for (int turn = 0; turn < 3; turn++) {
                for (int n = 0; n < 3; n++) {
                    for (int at = 0; at < 6; at += 2) {
                        String value = one(conns.get(n), "SELECT current_setting('" + wanted[n][at] + "')");
                        same(wanted[n][at] + "=" + value, wanted[n][at] + "=" + wanted[n][at + 1]);
                    }
                    String path = one(conns.get(n), "SELECT current_setting('search_path')");
                    same(path.replace("\"", ""), paths[n]);
                    same(column(conns.get(n), NAMES).size(), 3);
                }
            }
        } finally {
            for (Connection conn : conns) conn.close();
        }
    }

    private static void listen(Map<String, String> seat) throws Exception {
        String channel = "channel_" + mark();
        try (Connection listener = connect(seat); Connection sender = connect(seat)) {
            run(listener, "LISTEN " + channel);
            run(sender, "NOTIFY " + channel + ", 'hello'");
            PGNotification[] heard = listener.unwrap(PGConnection.class).getNotifications(20_000);
            same(heard.length, 1);
            same(heard[0].getParameter(), "hello");
        }
    }

    private static void bigResults(Map<String, String> seat) throws Exception {
        try (Connection conn = connect(seat)) {
            conn.setAutoCommit(false);
            long total = 0;
            try (Statement statement = conn.createStatement()) {
                statement.setFetchSize(5); // a portal, read in parts
                try (ResultSet rows = statement.executeQuery(
                        "SELECT repeat('x', 1048576) FROM generate_series(1, 50)")) {
                    while (rows.next()) total += rows.getString(1).length();
                }
            }
            conn.commit();
            same(total, 50L * 1024 * 1024);
            same(one(conn, "SELECT 7"), "7");
        }
    }

    private static void otherTenants(Map<String, String> seat) throws Exception {
        fails("28P01", () -> connect(seat, seat.get("other"), seat.get("user")).close());
        try (Connection conn = connect(seat)) {
            if (seat.get("trespass_state").isEmpty()) {
                same(column(conn, seat.get("trespass")), List.of());
                one(conn, "SELECT set_config('app.current_tenant_id', '" + seat.get("other") + "', false)");
                try { // on that backend it is an error, on another one, or after its reset, it finds nothing
                    same(column(conn, seat.get("trespass")), List.of());
                } catch (SQLException error) {
                    same(error.getSQLState(), "42501");
                }
            } else {
                fails(seat.get("trespass_state"), () -> column(conn, seat.get("trespass")));
            }
        }
        try (Connection conn = connect(seat)) {
            same(column(conn, NAMES), rows(seat.get("tenant")));
        }
    }

    // Its other ways to talk: the simple protocol, a savepoint around each statement, batches as one INSERT.
    private static void modes(Map<String, String> seat) throws Exception {
        for (String mode : new String[] {"preferQueryMode=simple", "autosave=always", "reWriteBatchedInserts=true",
                "preferQueryMode=extendedForPrepared", "binaryTransfer=true", "options=-c%20statement_timeout=54s"}) {
            String mark = mark();
            String url = "jdbc:postgresql://" + seat.get("host") + ":" + seat.get("port") + "/" + seat.get("crowded");
            try (Connection conn = DriverManager.getConnection(
                    url + "?prepareThreshold=1&" + mode, seat.get("user"), seat.get("password"))) {
                conn.setAutoCommit(false);
                for (int turn = 0; turn < 4; turn++) {
                    try (PreparedStatement insert = conn.prepareStatement("INSERT INTO notes (body) VALUES (?)")) {
                        for (int n = 0; n < 20; n++) {
                            insert.setString(1, mark);
                            insert.addBatch();
                        }
                        insert.executeBatch();
                    }
                    if (mode.equals("autosave=always")) {
                        fails("22012", () -> run(conn, "SELECT 1/0"));
                    }
                    conn.commit();
                    same(one(conn, "SELECT count(*) FROM notes WHERE body = ?", mark), String.valueOf(20 * turn + 20));
                    conn.commit();
                }
                if (mode.startsWith("options")) same(one(conn, "SHOW statement_timeout"), "54s");
                run(conn, "DELETE FROM notes WHERE body = '" + mark + "'");
                conn.commit();
                if (mode.equals("autosave=always")) {
                    try (Statement slow = conn.createStatement()) {
                        slow.setQueryTimeout(1);
                        fails("57014", () -> slow.execute("SELECT pg_sleep(60)"));
                    }
                    same(one(conn, "SELECT 7"), "7");
                }
            }
        }
    }

    // A batch is one pipeline: all of it or, after an error, nothing.
    private static void batch(Map<String, String> seat) throws Exception {
        String mark = mark();
        String count = "SELECT count(*) FROM notes WHERE body LIKE ?";
        try (Connection conn = crowded(seat); Connection other = crowded(seat)) {
            try (PreparedStatement insert = conn.prepareStatement("INSERT INTO notes (body) VALUES (?)")) {
                for (int turn = 1; turn <= 5; turn++) {
                    for (int n = 0; n < 100; n++) {
                        insert.setString(1, mark + " " + n);
                        insert.addBatch();
                    }
                    same(insert.executeBatch().length, 100);
                    same(one(other, count, mark + "%"), String.valueOf(100 * turn));
                }
                insert.setString(1, mark);
                insert.addBatch();
                insert.setString(1, null);
                insert.addBatch();
                try {
                    insert.executeBatch();
                    throw new AssertionError("a batch with NULL in it did not fail");
                } catch (BatchUpdateException error) {
                    same(error.getSQLState(), "23502");
                }
            }
            same(one(conn, count, mark), "0");
            run(conn, "DELETE FROM notes WHERE body LIKE '" + mark + "%'");
        }
    }
}
