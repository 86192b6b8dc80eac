# What must hold for every client behind the port: the checks of checks.py, for Ruby's pg.
# Reads its seats as JSON from stdin and prints one JSON object per check.

require "json"
require "pg"
require "securerandom"
require "set"

NAMES = "SELECT name FROM projects ORDER BY name"
AWKWARD = ["a\tb", "back\\slash", 'quo"te', "Ünïcode 漢字", "", "\\N", "\\."]
SECONDS = 20

def mark = SecureRandom.hex(6)

def same(found, expected)
  raise "expected #{expected.inspect}, found #{found.inspect}" unless found == expected
end

def fails(state)
  yield
rescue PG::Error => error
  same(error.result&.error_field(PG::Result::PG_DIAG_SQLSTATE), state)
else
  raise "it did not fail with #{state}"
end

# One connection: values come as text.
class Session
  attr_reader :conn

  def initialize(seat, tenant = seat["tenant"], user = seat["user"])
    @conn = PG.connect(
      host: seat["host"], port: seat["port"], dbname: tenant, user: user, password: seat["password"], connect_timeout: 30
    )
    @names = {}
  end

  def rows(sql, *values)
    (values.empty? ? @conn.exec(sql) : @conn.exec_params(sql, values)).values
  end

  def one(sql, *values) = rows(sql, *values)[0][0]

  def prepared(sql, *values)
    unless @names.key?(sql)
      @conn.prepare("statement_#{@names.size}", sql) # the same in each client
      @names[sql] = "statement_#{@names.size}"
    end
    @conn.exec_prepared(@names[sql], values).values
  end

  def copy_in(table, bodies)
    encoder = PG::TextEncoder::CopyRow.new
    @conn.copy_data("COPY #{table} (body) FROM STDIN", encoder) { bodies.each { |body| @conn.put_copy_data([body]) } }
  end

  def copy_out(query)
    lines = []
    @conn.copy_data("COPY (#{query}) TO STDOUT") do
      while (line = @conn.get_copy_data)
        lines << line.force_encoding("UTF-8").chomp
      end
    end
    lines
  end
end

def with(*sessions)
  yield(*sessions)
ensure
  sessions.each { |each| each.conn.close }
end

def several(seat, count, tenant = seat["tenant"], &) = with(*Array.new(count) { Session.new(seat, tenant) }, &)

CHECKS = {
  own_rows: lambda do |seat|
    reads = lambda do |tenant, expected|
      Thread.new do
        with(Session.new(seat, tenant, seat["guest"])) do |conn|
          8.times do
            same(conn.rows(NAMES).flatten, expected)
            same(conn.prepared(NAMES).flatten, expected)
          end
        end
      end
    end
    [[seat["tenant"], seat["rows"]], [seat["other"], seat["other_rows"]]].cycle(2).map { |tenant, expected| reads.call(tenant, expected) }.each(&:join)
  end,
  transactions: lambda do |seat|
    body, count, insert = mark, "SELECT count(*) FROM notes WHERE body = $1", "INSERT INTO notes (body) VALUES ($1)"
    several(seat, 2) do |one, other|
      one.rows("BEGIN")
      one.rows(insert, body)
      same([one.one(count, body), other.one(count, body)], %w[1 0])
      one.rows("ROLLBACK")
      same(one.one(count, body), "0")
      one.conn.transaction do
        one.rows(insert, body)
        one.rows("SAVEPOINT here")
        one.rows(insert, body)
        one.rows("ROLLBACK TO here")
      end
      same(other.one(count, body), "1")
      other.rows("DELETE FROM notes WHERE body = $1", body)
      same(one.one(count, body), "0")
    end
  end,
  prepared: lambda do |seat|
    pids = Array.new(3) { Set.new }
    several(seat, 3, seat["crowded"]) do |*conns|
      12.times do |turn|
        conns.each_with_index do |conn, number|
          conn.rows("BEGIN") if turn % 3 == 2
          sql = "SELECT CAST($1 AS int) + #{1000 * number}, CAST($2 AS text), pg_backend_pid()"
          total, text, pid = conn.prepared(sql, turn, "text #{turn}")[0]
          same([total, text], [(turn + 1000 * number).to_s, "text #{turn}"])
          pids[number] << pid
          found = conn.prepared("SELECT name FROM projects WHERE name <> $1 AND #{number} = #{number}", "-")
          same(found.flatten.sort, (1..3).map { |n| "#{seat["crowded"]} #{n}" })
          conn.rows("COMMIT") if turn % 3 == 2
        end
      end
    end
    same(seat["mode"] == "session" || !pids.reduce(:&).empty?, true)
  end,
  errors: lambda do |seat|
    divide = "SELECT 1 / CAST($1 AS int)"
    several(seat, 1) do |conn|
      {
        "SELECT 1/0" => "22012", "SELECT * FROM nothing_here" => "42P01", "SELEC 1" => "42601",
        "INSERT INTO projects (name) VALUES ('#{seat["rows"][0]}')" => "23505",
      }.each do |sql, state|
        fails(state) { conn.rows(sql) }
        same(conn.one("SELECT 7"), "7")
      end
      fails("22012") { conn.prepared(divide, 0) }
      same(conn.prepared(divide, 1), [["1"]])
      conn.rows("BEGIN")
      fails("22012") { conn.prepared(divide, 0) }
      fails("25P02") { conn.rows("SELECT 8") }
      conn.rows("ROLLBACK")
      same(conn.prepared(divide, 1), [["1"]])
    end
  end,
  cancel: lambda do |seat|
    victims = SecureRandom.random_number(2**40)
    bystanders, held = victims + 1, victims + 2
    waits = lambda do |conn, key|
      conn.conn.send_query(
        "SELECT CAST(pg_advisory_xact_lock(#{key}) AS text) || CAST(pg_advisory_xact_lock(#{held}) AS text) || 'unharmed'"
      )
    end
    several(seat, 4) do |victim, bystander, keeper, probe|
      keeper.rows("BEGIN")
      keeper.rows("SELECT CAST(pg_advisory_xact_lock(#{held}) AS text)")
      waits.call(victim, victims)
      waits.call(bystander, bystanders)
      deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + SECONDS
      [victims, bystanders].each do |key|
        while probe.one("SELECT pg_try_advisory_xact_lock(#{key})") == "t"
          raise "the statements do not run" if Process.clock_gettime(Process::CLOCK_MONOTONIC) > deadline
          sleep(0.01)
        end
      end
      same(victim.conn.cancel, nil)
      fails("57014") { victim.conn.get_last_result }
      keeper.rows("COMMIT")
      same(bystander.conn.get_last_result.values, [["unharmed"]])
      same(victim.one("SELECT 7"), "7")
      same(victim.prepared("SELECT CAST($1 AS int)", 8), [["8"]])
    end
  end,
  copy: lambda do |seat|
    name = mark
    numbered = Array.new(3000) { |n| format("%s %05d %s", name, n, "y" * 200) }
    bodies = AWKWARD.map { |text| "#{name} #{text}" } + numbered
    several(seat, 1) do |conn|
      conn.copy_in(seat["copy_into"], bodies)
      same(conn.rows("SELECT body FROM notes WHERE body LIKE $1", "#{name}%").flatten.to_set, bodies.to_set)
      same(conn.copy_out("SELECT body FROM notes WHERE body LIKE '#{name} 0%' ORDER BY body"), numbered)
      fails("42P01") { conn.copy_in("nothing_here", ["x"]) }
      fails("0A000") { conn.copy_in("notes", ["x"]) } if seat["kind"] == "row"
      begin # given up in the middle
        conn.conn.copy_data("COPY #{seat["copy_into"]} (body) FROM STDIN") do
          conn.conn.put_copy_data("#{name} gone\n")
          raise IOError
        end
      rescue IOError
        same(conn.one("SELECT count(*) FROM notes WHERE body LIKE $1", "#{name}%"), bodies.size.to_s)
      end
      conn.rows("DELETE FROM notes WHERE body LIKE $1", "#{name}%")
    end
  end,
  settings: lambda do |seat|
    wanted = [
      { TimeZone: "Europe/Vienna", application_name: "first", extra_float_digits: "0" },
      { TimeZone: "Asia/Tokyo", application_name: "second", extra_float_digits: "2" },
      { TimeZone: "UTC", application_name: "third", extra_float_digits: "-1" },
    ]
    schema = seat["crowded_schema"]
    paths = ["#{schema}, pg_catalog", schema, "pg_catalog, #{schema}"]
    several(seat, 3, seat["crowded"]) do |*conns|
      conns.zip(wanted, paths) do |conn, values, path|
        values.each { |setting, value| conn.rows("SET #{setting} = '#{value}'") }
        conn.rows("SET search_path TO #{path}")
      end
      3.times do
        conns.zip(wanted, paths) do |conn, values, path|
          values.each { |setting, value| same(conn.one("SELECT current_setting('#{setting}')"), value) }
          same(conn.one("SELECT current_setting('search_path')").delete('"'), path)
          same(conn.rows(NAMES).size, 3)
        end
      end
    end
  end,
  listen: lambda do |seat|
    channel = "channel_#{mark}"
    several(seat, 2) do |listener, sender|
      listener.rows("LISTEN #{channel}")
      sender.rows("SELECT CAST(pg_notify($1, $2) AS text)", channel, "hello")
      heard = nil
      listener.conn.wait_for_notify(SECONDS) { |_, _, payload| heard = payload }
      same(heard, "hello")
    end
  end,
  big_results: lambda do |seat|
    total = 0
    several(seat, 1) do |conn|
      conn.conn.send_query("SELECT repeat('x', 1048576) FROM generate_series(1, 50)")
      conn.conn.set_single_row_mode
      while (result = conn.conn.get_result)
        result.each_row { |row| total += row[0].size }
        result.clear
      end
      same(total, 50 << 20)
      same(conn.one("SELECT 7"), "7")
    end
  end,
  pipelines: lambda do |seat|
    several(seat, 2, seat["crowded"]) do |*sessions|
      sessions.each do |session|
        conn = session.conn
        conn.enter_pipeline_mode
        conn.send_query_params("SELECT CAST($1 AS int)", [1])
        conn.send_query_params("SELECT 1 / CAST($1 AS int)", [0])
        conn.pipeline_sync
        conn.send_query_params("SELECT CAST($1 AS int)", [2])
        conn.pipeline_sync
        states = []
        while states.count(PG::PGRES_PIPELINE_SYNC) < 2
          result = conn.get_result
          states << result.result_status if result
        end
        conn.exit_pipeline_mode
        sync, done = PG::PGRES_PIPELINE_SYNC, PG::PGRES_TUPLES_OK
        same(states, [done, PG::PGRES_FATAL_ERROR, sync, done, sync])
        same(session.one("SELECT 7"), "7")
      end
    end
  end,
  other_tenants: lambda do |seat|
    begin
      Session.new(seat, seat["other"])
      raise "it may not reach the other tenant"
    rescue PG::ConnectionBad => error
      same(error.message.include?("password authentication failed"), true)
    end
    several(seat, 1) do |conn|
      if seat["trespass_state"].empty?
        same(conn.rows(seat["trespass"]), [])
        conn.rows("SELECT set_config('app.current_tenant_id', $1, false)", seat["other"])
        begin # on that backend it is an error, on another one, or after its reset, it finds nothing
          same(conn.rows(seat["trespass"]), [])
        rescue PG::InsufficientPrivilege
          same(conn.one("SELECT 7"), "7")
        end
      else
        fails(seat["trespass_state"]) { conn.rows(seat["trespass"]) }
      end
    end
    several(seat, 1) { |conn| same(conn.rows(NAMES).flatten, seat["rows"]) }
  end,
}.freeze

JSON.parse($stdin.read)["seats"].each do |seat|
  CHECKS.each do |name, check|
    said = { check: name, kind: seat["kind"], mode: seat["mode"], ok: true }
    begin
      check.call(seat)
    rescue StandardError => error
      said.update(ok: false, error: error.full_message(highlight: false))
    end
    puts(JSON.generate(said))
  end
end
