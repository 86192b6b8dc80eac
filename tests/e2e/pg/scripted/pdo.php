<?php
// What must hold for every client behind the port: the checks of checks.py, for PHP's PDO.
// Reads its seats as JSON from stdin and prints one JSON object per check.

const NAMES = 'SELECT name FROM projects ORDER BY name';

function mark(): string
{
    return bin2hex(random_bytes(6));
}

function same(mixed $found, mixed $expected): void
{
    if ($found !== $expected) {
        throw new LogicException('expected ' . var_export($expected, true) . ', found ' . var_export($found, true));
    }
}

function fails(string $state, callable $action): void
{
    try {
        $action();
    } catch (PDOException $error) {
        same($error->errorInfo[0] ?? $error->getCode(), $state);
        return;
    }
    throw new LogicException("it did not fail with $state");
}

class Session
{
    public PDO $pdo;

    /** @var array<string, PDOStatement> */
    private array $statements = [];

    public function __construct(array $seat, string $tenant, string $user = '')
    {
        $to = "pgsql:host={$seat['host']};port={$seat['port']};dbname=$tenant;connect_timeout=30";
        $this->pdo = new PDO($to, $user ?: $seat['user'], $seat['password']);
    }

    // What PDO does by itself: prepares on the server, runs once, deallocates.
    public function rows(string $sql, mixed ...$values): array
    {
        $statement = $this->pdo->prepare($sql);
        $statement->execute($values);
        return $statement->fetchAll(PDO::FETCH_NUM);
    }

    public function prepared(string $sql, mixed ...$values): array
    {
        $statement = $this->statements[$sql] ??= $this->pdo->prepare($sql);
        $statement->execute($values);
        return $statement->fetchAll(PDO::FETCH_NUM);
    }

    // The simple protocol.
    public function plain(string $sql): void
    {
        $this->pdo->exec($sql);
    }

    public function one(string $sql, mixed ...$values): mixed
    {
        return $this->rows($sql, ...$values)[0][0];
    }
}

function column(array $rows): array
{
    return array_map(fn ($row) => $row[0], $rows);
}

$checks = [
    'own_rows' => function (array $seat): void {
        [$mine, $other] = [new Session($seat, $seat['tenant'], $seat['guest']), new Session($seat, $seat['other'], $seat['guest'])];
        for ($turn = 0; $turn < 8; $turn++) {
            foreach (['rows', 'prepared'] as $way) {
                same(column($mine->$way(NAMES)), $seat['rows']);
                same(column($other->$way(NAMES)), $seat['other_rows']);
            }
        }
    },
    'transactions' => function (array $seat): void {
        [$body, $count, $insert] = [mark(), 'SELECT count(*) FROM notes WHERE body = ?', 'INSERT INTO notes (body) VALUES (?)'];
        [$one, $other] = [new Session($seat, $seat['tenant']), new Session($seat, $seat['tenant'])];
        $one->pdo->beginTransaction();
        $one->rows($insert, $body);
        same([$one->one($count, $body), $other->one($count, $body)], [1, 0]);
        $one->pdo->rollBack();
        same($one->one($count, $body), 0);
        $one->pdo->beginTransaction();
        $one->rows($insert, $body);
        $one->plain('SAVEPOINT here');
        $one->rows($insert, $body);
        $one->plain('ROLLBACK TO here');
        $one->pdo->commit();
        same($other->one($count, $body), 1);
        $other->rows('DELETE FROM notes WHERE body = ?', $body);
        same($one->one($count, $body), 0);
    },
    'prepared' => function (array $seat): void {
        $pids = [[], [], []];
        $sessions = array_map(fn () => new Session($seat, $seat['crowded']), $pids);
        for ($turn = 0; $turn < 12; $turn++) {
            foreach ($sessions as $number => $session) {
                $turn % 3 == 2 && $session->pdo->beginTransaction();
                $sql = 'SELECT CAST(? AS int) + ' . 1000 * $number . ', CAST(? AS text), pg_backend_pid()';
                [[$total, $text, $pid]] = $session->prepared($sql, $turn, "text $turn");
                same([$total, $text], [$turn + 1000 * $number, "text $turn"]);
                $pids[$number][] = $pid;
                $found = $session->prepared("SELECT name FROM projects WHERE name <> ? AND $number = $number ORDER BY name", '-');
                same(column($found), array_map(fn ($n) => "{$seat['crowded']} $n", [1, 2, 3]));
                $turn % 3 == 2 && $session->pdo->commit();
            }
        }
        same($seat['mode'] === 'session' || (bool) array_intersect(...$pids), true);
    },
    'errors' => function (array $seat): void {
        $session = new Session($seat, $seat['tenant']);
        $divide = 'SELECT 1 / CAST(? AS int)';
        foreach ([
            'SELECT 1/0' => '22012', 'SELECT * FROM nothing_here' => '42P01', 'SELEC 1' => '42601',
            "INSERT INTO projects (name) VALUES ('{$seat['rows'][0]}')" => '23505',
        ] as $sql => $state) {
            fails($state, fn () => $session->plain($sql));
            fails($state, fn () => $session->rows($sql));
            same($session->one('SELECT 7'), 7);
        }
        fails('22012', fn () => $session->prepared($divide, 0));
        same($session->prepared($divide, 1), [[1]]);
        $session->pdo->beginTransaction();
        fails('22012', fn () => $session->prepared($divide, 0));
        fails('25P02', fn () => $session->plain('SELECT 8'));
        $session->pdo->rollBack();
        same($session->prepared($divide, 1), [[1]]);
    },
    'copy' => function (array $seat): void {
        $mark = mark();
        $bodies = array_map(fn ($text) => "$mark $text", ["a\tb", 'back\\slash', 'Ünïcode 漢字', '\\N', '\\.']);
        for ($n = 0; $n < 3000; $n++) {
            $bodies[] = sprintf('%s %05d %s', $mark, $n, str_repeat('y', 200));
        }
        sort($bodies, SORT_STRING);
        $lines = array_map(fn ($body) => strtr($body, ['\\' => '\\\\', "\t" => '\\t']), $bodies);
        $session = new Session($seat, $seat['tenant']);
        same($session->pdo->pgsqlCopyFromArray($seat['copy_into'], $lines, "\t", '\\\\N', 'body'), true);
        $found = column($session->rows('SELECT body FROM notes WHERE body LIKE ?', "$mark%"));
        sort($found, SORT_STRING);
        same($found, $bodies);
        fails('42P01', fn () => $session->pdo->pgsqlCopyFromArray('nothing_here', ['x'], "\t", '\\\\N', 'body'));
        if ($seat['kind'] === 'row') {
            fails('0A000', fn () => $session->pdo->pgsqlCopyFromArray('notes', ['x'], "\t", '\\\\N', 'body'));
        }
        $out = $session->pdo->pgsqlCopyToArray("(SELECT body FROM notes WHERE body LIKE '$mark 0%')");
        same(count($out), 3000);
        same($session->one('SELECT count(*) FROM notes WHERE body LIKE ?', "$mark%"), count($bodies));
        $session->rows('DELETE FROM notes WHERE body LIKE ?', "$mark%");
    },
    'settings' => function (array $seat): void {
        $schema = $seat['crowded_schema'];
        $wanted = [
            ['TimeZone' => 'Europe/Vienna', 'application_name' => 'first', 'extra_float_digits' => '0', 'search_path' => "$schema, pg_catalog"],
            ['TimeZone' => 'Asia/Tokyo', 'application_name' => 'second', 'extra_float_digits' => '2', 'search_path' => $schema],
            ['TimeZone' => 'UTC', 'application_name' => 'third', 'extra_float_digits' => '-1', 'search_path' => "pg_catalog, $schema"],
        ];
        $sessions = array_map(fn () => new Session($seat, $seat['crowded']), $wanted);
        foreach ($sessions as $number => $session) {
            foreach ($wanted[$number] as $name => $value) {
                $session->plain("SET $name TO " . ($name === 'search_path' ? $value : "'$value'"));
            }
        }
        for ($turn = 0; $turn < 3; $turn++) {
            foreach ($sessions as $number => $session) {
                foreach ($wanted[$number] as $name => $value) {
                    same(str_replace('"', '', $session->one('SELECT current_setting(?)', $name)), $value);
                }
                same(count($session->rows(NAMES)), 3);
            }
        }
    },
    'listen' => function (array $seat): void {
        $channel = 'channel_' . mark();
        [$listener, $sender] = [new Session($seat, $seat['tenant']), new Session($seat, $seat['tenant'])];
        $listener->plain("LISTEN $channel");
        $sender->rows('SELECT CAST(pg_notify(?, ?) AS text)', $channel, 'hello');
        same($listener->pdo->pgsqlGetNotify(PDO::FETCH_ASSOC, 20_000)['payload'] ?? null, 'hello');
    },
    'big_results' => function (array $seat): void {
        $session = new Session($seat, $seat['tenant']);
        $total = 0;
        foreach ($session->pdo->query("SELECT repeat('x', 1048576) FROM generate_series(1, 50)") as $row) {
            $total += strlen($row[0]);
        }
        same($total, 50 << 20);
        same($session->one('SELECT 7'), 7);
    },
    'other_tenants' => function (array $seat): void {
        try {
            new Session($seat, $seat['other']);
            throw new LogicException('it may not reach the other tenant');
        } catch (PDOException $error) {
            same(str_contains($error->getMessage(), 'password authentication failed'), true);
        }
        $session = new Session($seat, $seat['tenant']);
        if ($seat['trespass_state']) {
            fails($seat['trespass_state'], fn () => $session->rows($seat['trespass']));
        } else {
            same($session->rows($seat['trespass']), []);
            $session->rows("SELECT set_config('app.current_tenant_id', ?, false)", $seat['other']);
            try { // on that backend it is an error, on another one, or after its reset, it finds nothing
                same($session->rows($seat['trespass']), []);
            } catch (PDOException $error) {
                same($error->errorInfo[0], '42501');
            }
        }
        same(column((new Session($seat, $seat['tenant']))->rows(NAMES)), $seat['rows']);
    },
];

foreach (json_decode(stream_get_contents(STDIN), true)['seats'] as $seat) {
    foreach ($checks as $name => $check) {
        $said = ['check' => $name, 'kind' => $seat['kind'], 'mode' => $seat['mode'], 'ok' => true];
        try {
            $check($seat);
        } catch (Throwable $error) {
            $said = ['ok' => false, 'error' => (string) $error] + $said;
        }
        echo json_encode($said, JSON_INVALID_UTF8_SUBSTITUTE), "\n";
    }
}
