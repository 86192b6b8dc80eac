# What must hold for every client behind the port: the checks of checks.py, for Perl's DBI, with DBD::Pg, and with psqlODBC
# by DBD::ODBC. Its argument names the driver. Reads its seats as JSON from stdin and prints one JSON object per check.

use v5.36;
use utf8;

use DBI;
use JSON::PP;
use Time::HiRes qw(sleep time);

use constant SECONDS => 20;
use constant NAMES   => 'SELECT name FROM projects ORDER BY name';

my $driver  = $ARGV[0];
my $is_odbc = $driver eq 'ODBC';

sub mark { sprintf '%08x%08x', int rand 2**32, int rand 2**32 }

sub same ($found, $expected) {
    my ($one, $other) = map { ref ? JSON::PP->new->canonical->encode($_) : $_ } $found, $expected;
    die "expected $other, found $one" if $one ne $other;
}

sub fails ($state, $action) {
    eval { $action->(); 1 } and die "it did not fail with $state";
    my $failed = $@;
    same(($DBI::state // "") . " $failed", "$state $failed");
}

sub connect_to ($seat, $tenant = $seat->{tenant}, $user = $seat->{user}) {
    my %more  = (RaiseError => 1, PrintError => 0, AutoCommit => 1);
    my $where = $is_odbc
        ? "Driver={PostgreSQL Unicode};Server=$seat->{host};Port=$seat->{port};Database=$tenant;UID=$user;PWD={$seat->{password}}"
        . ';UseServerSidePrepare=1;UseDeclareFetch=0;MaxLongVarcharSize=2000000;BoolsAsChar=0'
        : "dbname=$tenant;host=$seat->{host};port=$seat->{port};connect_timeout=30";
    my $conn = DBI->connect("dbi:$driver:$where", $is_odbc ? ("", "") : ($user, $seat->{password}), \%more)
        // die $DBI::errstr;
    $conn->{LongReadLen} = 2_000_000 if $is_odbc;
    return $conn;
}

sub several ($seat, $count, $tenant, $work, $user = $seat->{user}) {
    my @conns = map { connect_to($seat, $tenant, $user) } 1 .. $count;
    my $done  = eval { $work->(@conns); 1 };
    my $why   = $@;
    $_->disconnect for @conns;
    die $why unless $done;
}

# Prepared, run and closed.
sub rows ($conn, $sql, @values) {
    my $statement = $conn->prepare($sql);
    $statement->execute(@values);
    return $statement->{NUM_OF_FIELDS} ? $statement->fetchall_arrayref : [];
}

# Prepared once.
sub prepared ($conn, $sql, @values) {
    my $statement = $conn->prepare_cached($sql);
    $statement->execute(@values);
    return $statement->fetchall_arrayref;
}

sub one    ($conn, $sql, @values) { rows($conn, $sql, @values)->[0][0] }
sub column ($rows)                { [map { $_->[0] } @$rows] }

my %checks = (
    own_rows => sub ($seat) {
        my @all = ([connect_to($seat, $seat->{tenant}, $seat->{guest}), $seat->{rows}],
            [connect_to($seat, $seat->{other}, $seat->{guest}), $seat->{other_rows}]);
        for (1 .. 8) {
            for my $each (@all) {
                same(column(rows($each->[0], NAMES)), $each->[1]);
                same(column(prepared($each->[0], NAMES)), $each->[1]);
            }
        }
        $_->[0]->disconnect for @all;
    },
    transactions => sub ($seat) {
        my ($body, $count) = (mark(), 'SELECT count(*) FROM notes WHERE body = ?');
        several($seat, 2, $seat->{tenant}, sub ($conn, $other) {
            my $insert = sub { $conn->do('INSERT INTO notes (body) VALUES (?)', undef, $body) };
            $conn->begin_work;
            $insert->();
            same([one($conn, $count, $body) + 0, one($other, $count, $body) + 0], [1, 0]);
            $conn->rollback;
            same(one($conn, $count, $body), 0);
            $conn->begin_work;
            $insert->();
            $conn->do('SAVEPOINT here');
            $insert->();
            $conn->do('ROLLBACK TO here');
            $conn->commit;
            same(one($other, $count, $body), 1);
            $other->do('DELETE FROM notes WHERE body = ?', undef, $body);
            same(one($conn, $count, $body), 0);
        });
    },
    prepared => sub ($seat) {
        my %pids;
        several($seat, 3, $seat->{crowded}, sub (@conns) {
            for my $turn (0 .. 11) {
                for my $number (0 .. 2) {
                    my $conn = $conns[$number];
                    $conn->begin_work if $turn % 3 == 2;
                    my $sql = 'SELECT CAST(? AS int) + ' . 1000 * $number . ', CAST(? AS text), pg_backend_pid()';
                    my ($total, $text, $pid) = prepared($conn, $sql, $turn, "text $turn")->[0]->@*;
                    same([$total + 0, $text], [$turn + 1000 * $number, "text $turn"]);
                    $pids{$pid}{$number} = 1;
                    $sql = "SELECT name FROM projects WHERE name <> ? AND $number = $number ORDER BY name";
                    same(column(prepared($conn, $sql, '-')), [map { "$seat->{crowded} $_" } 1 .. 3]);
                    $conn->commit if $turn % 3 == 2;
                }
            }
        });
        same($seat->{mode} eq 'session' || (grep { keys %$_ == 3 } values %pids) > 0, 1);
    },
    errors => sub ($seat) {
        my $divide = 'SELECT 1 / CAST(? AS int)';
        several($seat, 1, $seat->{tenant}, sub ($conn) {
            for ([ 'SELECT 1/0', '22012' ], [ 'SELECT * FROM nothing_here', '42P01' ], [ 'SELEC 1', '42601' ],
                [ "INSERT INTO projects (name) VALUES ('$seat->{rows}[0]')", '23505' ]) {
                my ($sql, $state) = @$_;
                fails($state, sub { $conn->do($sql) });
                fails($state, sub { rows($conn, $sql) });
                same(one($conn, 'SELECT 7'), 7);
            }
            fails('22012', sub { prepared($conn, $divide, 0) });
            same(column(prepared($conn, $divide, 1)), [1]) unless $is_odbc;
            $conn->begin_work;
            fails('22012', sub { rows($conn, $divide, 0) });
            $conn->rollback;
            same(one($conn, $divide, 1), 1);
        });
    },
    settings => sub ($seat) {
        my @settings = qw(TimeZone application_name extra_float_digits search_path);
        my $schema   = $seat->{crowded_schema};
        my @wanted   = (['Europe/Vienna', 'first', '0', "$schema, pg_catalog"], ['Asia/Tokyo', 'second', '2', $schema],
            ['UTC', 'third', '-1', "pg_catalog, $schema"]);
        several($seat, 3, $seat->{crowded}, sub (@conns) {
            for my $number (0 .. 2) {
                for my $n (0 .. 3) {
                    my $value = $wanted[$number][$n];
                    $conns[$number]->do("SET $settings[$n] TO " . ($n == 3 ? $value : "'$value'"));
                }
            }
            for (1 .. 3) {
                for my $number (0 .. 2) {
                    my @found = map { one($conns[$number], "SELECT current_setting('$_')") =~ tr/"//dr } @settings;
                    same(\@found, $wanted[$number]);
                    same(scalar rows($conns[$number], NAMES)->@*, 3);
                }
            }
        });
    },
    big_results => sub ($seat) {
        several($seat, 1, $seat->{tenant}, sub ($conn) {
            my $statement = $conn->prepare("SELECT repeat('x', 1048576) FROM generate_series(1, 50)");
            $statement->execute;
            my $total = 0;
            while (my $row = $statement->fetchrow_arrayref) { $total += length $row->[0] }
            same($total, 50 * 2**20);
            same(one($conn, 'SELECT 7'), 7);
        });
    },
    other_tenants => sub ($seat) {
        eval { connect_to($seat, $seat->{other}); 1 } and die 'it may not reach the other tenant';
        die $@ unless $@ =~ /password authentication failed/;
        several($seat, 1, $seat->{tenant}, sub ($conn) {
            my $trespass = sub { rows($conn, $seat->{trespass}) };
            if ($seat->{trespass_state}) {
                fails($seat->{trespass_state}, $trespass);
            } else {
                same($trespass->(), []);
                one($conn, "SELECT set_config('app.current_tenant_id', '$seat->{other}', false)");
                # On that backend it is an error, on another one, or after its reset, it finds nothing.
                my $found = eval { $trespass->() };
                $found ? same($found, []) : same($DBI::state, '42501');
            }
        });
        several($seat, 1, $seat->{tenant}, sub ($conn) { same(column(rows($conn, NAMES)), $seat->{rows}) });
    },
);

# What DBI has no words for, DBD::Pg has.
my %only_pg = (
    cancel => sub ($seat) {
        my $victims = int rand 2**40;
        my ($bystanders, $held) = ($victims + 1, $victims + 2);
        several($seat, 4, $seat->{tenant}, sub ($victim, $bystander, $keeper, $probe) {
            $keeper->begin_work;
            rows($keeper, "SELECT CAST(pg_advisory_xact_lock($held) AS text)");
            my @waiting = map {
                my ($conn, $key) = @$_;
                my $sql = "SELECT CAST(pg_advisory_xact_lock($key) AS text)"
                    . " || CAST(pg_advisory_xact_lock($held) AS text) || 'unharmed'";
                my $statement = $conn->prepare($sql, { pg_async => DBD::Pg::PG_ASYNC() });
                $statement->execute;
                $statement;
            } [$victim, $victims], [$bystander, $bystanders];
            my $deadline = time + SECONDS;
            for my $key ($victims, $bystanders) {
                while (one($probe, "SELECT pg_try_advisory_xact_lock($key)")) {
                    die 'the statements do not run' if time > $deadline;
                    sleep 0.01;
                }
            }
            same($victim->pg_cancel ? 1 : 0, 1);
            $keeper->commit;
            $waiting[1]->pg_result;
            same($waiting[1]->fetchall_arrayref, [['unharmed']]);
            same(one($victim, 'SELECT 7'), 7);
        });
    },
    copy => sub ($seat) {
        my $mark   = mark();
        my @bodies = map { sprintf '%s %05d %s', $mark, $_, 'y' x 200 } 0 .. 2999;
        my @odd    = map { "$mark $_" } "a\tb", 'back\\slash', 'Ünïcode 漢字', '\\N';
        several($seat, 1, $seat->{tenant}, sub ($conn) {
            $conn->do("COPY $seat->{copy_into} (body) FROM STDIN");
            $conn->pg_putcopydata(s/\\/\\\\/gr =~ s/\t/\\t/gr . "\n") for @odd, @bodies;
            $conn->pg_putcopyend;
            my $found = column(rows($conn, 'SELECT body FROM notes WHERE body LIKE ?', "$mark%"));
            same([sort @$found], [sort @odd, @bodies]);
            $conn->do("COPY (SELECT body FROM notes WHERE body LIKE '$mark 0%' ORDER BY body) TO STDOUT");
            my ($line, @out) = ('');
            while ($conn->pg_getcopydata($line) >= 0) { push @out, $line =~ s/\n$//r }
            same(\@out, \@bodies);
            fails('42P01', sub { $conn->do('COPY nothing_here (body) FROM STDIN') });
            if ($seat->{kind} eq 'row') {
                fails('0A000', sub { $conn->do('COPY notes (body) FROM STDIN') });
            }
            same(one($conn, 'SELECT count(*) FROM notes WHERE body LIKE ?', "$mark%"), 3004);
            $conn->do('DELETE FROM notes WHERE body LIKE ?', undef, "$mark%");
        });
    },
    listen => sub ($seat) {
        my $channel = 'channel_' . mark();
        several($seat, 2, $seat->{tenant}, sub ($listener, $sender) {
            $listener->do("LISTEN $channel");
            rows($sender, 'SELECT CAST(pg_notify(?, ?) AS text)', $channel, 'hello');
            my ($deadline, $heard) = (time + SECONDS);
            sleep 0.01 until ($heard = $listener->pg_notifies) || time > $deadline;
            same($heard->[2], 'hello');
        });
    },
);
%checks = (%checks, %only_pg) unless $is_odbc;

$| = 1;
my $json = JSON::PP->new->utf8->canonical;
for my $seat ($json->decode(join '', <STDIN>)->{seats}->@*) {
    for my $name (sort keys %checks) {
        my $said = { check => $name, kind => $seat->{kind}, mode => $seat->{mode}, ok => JSON::PP::true };
        eval { $checks{$name}->($seat); 1 } or $said = { %$said, ok => JSON::PP::false, error => "$@" };
        say $json->encode($said);
    }
}
