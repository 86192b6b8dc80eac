# What must hold for every client behind the port: the checks of checks.py, for Ecto over Postgrex.
# Reads its seats as JSON from stdin and prints one JSON object per check. ERL_LIBS has ecto_sql, postgrex and jason.

for app <- [:postgrex, :ecto_sql, :jason], do: {:ok, _} = Application.ensure_all_started(app)
Logger.configure(level: :none)

defmodule Matrix.Repo do
  use Ecto.Repo, otp_app: :matrix, adapter: Ecto.Adapters.Postgres
end

defmodule Matrix.Note do
  use Ecto.Schema

  schema "notes" do
    field(:body, :string)
  end
end

defmodule Matrix do
  import Ecto.Query
  alias Matrix.{Note, Repo}

  @names "SELECT name FROM projects ORDER BY name"
  @awkward ["a\tb", "back\\slash", "quo\"te", "Ünïcode 漢字", "", "\\N", "\\."]
  @checks ~w(own_rows transactions prepared unnamed errors encoding cancel copy settings listen big_results streams
             sandbox disconnects pools other_tenants)a

  def main(seats) do
    for seat <- seats, check <- chosen() do
      said =
        try do
          within(fn -> apply(__MODULE__, check, [seat]) end)
          %{ok: true}
        catch
          kind, error -> %{ok: false, error: Exception.format(kind, error, __STACKTRACE__)}
        end

      IO.puts(Jason.encode!(Map.merge(said, %{check: check, kind: seat["kind"], mode: seat["mode"]})))
    end
  end

  defp chosen do
    case System.argv() do
      [] -> @checks
      named -> Enum.map(named, &String.to_existing_atom/1)
    end
  end

  def own_rows(seat) do
    reads = fn tenant, expected ->
      Task.async(fn ->
        with_repo(seat, [database: tenant, username: seat["guest"]], fn ->
          for _ <- 1..8 do
            same(column(@names), expected)
            same(Repo.all(from(p in "projects", select: p.name, order_by: p.name)), expected)
          end
        end)
      end)
    end

    [{seat["tenant"], seat["rows"]}, {seat["other"], seat["other_rows"]}]
    |> List.duplicate(2)
    |> List.flatten()
    |> Enum.map(fn {tenant, expected} -> reads.(tenant, expected) end)
    |> Task.await_many(30_000)
  end

  def transactions(seat) do
    body = mark()
    count = fn -> Repo.aggregate(from(n in Note, where: n.body == ^body), :count) end

    with_repo(seat, [pool_size: 2], fn ->
      {:error, :undone} =
        Repo.transaction(fn ->
          Repo.insert!(%Note{body: body})
          same(count.(), 1)
          repo = Repo.get_dynamic_repo()

          Task.await(
            Task.async(fn ->
              Repo.put_dynamic_repo(repo)
              same(count.(), 0)
            end)
          )

          Repo.rollback(:undone)
        end)

      same(count.(), 0)

      {:ok, _} =
        Repo.transaction(fn ->
          Repo.insert!(%Note{body: body})
          {:error, _} = Repo.query("SELECT 1 / $1::int", [0], mode: :savepoint)
          same(count.(), 1)
        end)

      same(count.(), 1)
      {:error, _, _, _} = Ecto.Multi.new() |> Ecto.Multi.insert(:note, %Note{body: body}) |> Ecto.Multi.error(:no, 1) |> Repo.transaction()
      same(Repo.delete_all(from(n in Note, where: n.body == ^body)), {1, nil})
    end)
  end

  def prepared(seat, options \\ []) do
    repos = for _ <- 1..3, do: start(seat, [database: seat["crowded"], pool_size: 1] ++ options)

    for turn <- 0..11, {repo, number} <- Enum.with_index(repos) do
      Repo.put_dynamic_repo(repo)

      work = fn ->
        same(rows("SELECT $1::int + #{1000 * number}, $2::text", [turn, "text #{turn}"]), [[turn + 1000 * number, "text #{turn}"]])
        same(column("SELECT name FROM projects WHERE name <> $1 AND #{number} = #{number} ORDER BY name", ["-"]), for(n <- 1..3, do: "#{seat["crowded"]} #{n}"))
      end

      if rem(turn, 3) == 2, do: Repo.transaction(work), else: work.()
    end

    Enum.each(repos, &Supervisor.stop/1)
  end

  def unnamed(seat), do: prepared(seat, prepare: :unnamed)

  def errors(seat) do
    with_repo(seat, [pool_size: 1], fn ->
      for {sql, state} <- [
            {"SELECT 1/0", "22012"},
            {"SELECT * FROM nothing_here", "42P01"},
            {"SELEC 1", "42601"},
            {"INSERT INTO projects (name) VALUES ('#{hd(seat["rows"])}')", "23505"}
          ] do
        fails(state, sql)
        same(one("SELECT 7"), 7)
      end

      fails("22012", "SELECT 1 / $1::int", [0])
      same(one("SELECT 1 / $1::int", [1]), 1)

      Repo.transaction(fn ->
        fails("22012", "SELECT 1 / $1::int", [0])
        fails("25P02", "SELECT 8")
      end)

      same(one("SELECT 1 / $1::int", [1]), 1)
    end)
  end

  # A value that Postgrex cannot encode: it has prepared by then, with a Flush.
  def encoding(seat) do
    with_repo(seat, [database: seat["crowded"], pool_size: 1], fn ->
      for _ <- 1..3 do
        try do
          Repo.query!("SELECT $1::int + 1", ["no number"])
          raise "it was encoded"
        rescue
          DBConnection.EncodeError -> :ok
        end

        with_repo(seat, [database: seat["crowded"], pool_size: 1], fn -> same(one("SELECT 7"), 7) end)
      end

      same(one("SELECT $1::int + 1", [1]), 2)
    end)
  end

  # A timeout: Postgrex asks to cancel and disconnects, and its pool connects again.
  def cancel(seat) do
    with_repo(seat, [pool_size: 2], fn ->
      key = :rand.uniform(1_000_000_000_000)
      repo = Repo.get_dynamic_repo()
      test = self()

      keeper =
        Task.async(fn ->
          Repo.put_dynamic_repo(repo)

          Repo.transaction(fn ->
            rows("SELECT pg_advisory_xact_lock($1)::text", [key])
            send(test, :held)
            receive do: (:let_go -> :ok)
          end)
        end)

      receive do: (:held -> :ok)
      # It hears that it was cancelled, or only that its connection is gone.
      case Repo.query("SELECT pg_advisory_xact_lock($1)::text", [key], timeout: 300) do
        {:error, %DBConnection.ConnectionError{}} -> :ok
        {:error, %Postgrex.Error{postgres: %{pg_code: state}}} -> same(state, "57014")
      end

      same(one("SELECT 7"), 7)
      send(keeper.pid, :let_go)
      Task.await(keeper)
      same(one("SELECT pg_try_advisory_xact_lock($1)", [key]), true)
    end)
  end

  def copy(seat) do
    name = mark()
    numbered = for n <- 0..2999, do: "#{name} #{String.pad_leading("#{n}", 5, "0")} #{String.duplicate("y", 200)}"
    bodies = Enum.map(@awkward, &"#{name} #{&1}") ++ numbered

    with_repo(seat, [pool_size: 1], fn ->
      Repo.transaction(fn ->
        Enum.into(Enum.map(bodies, &[escaped(&1), "\n"]), Ecto.Adapters.SQL.stream(Repo.get_dynamic_repo(), "COPY #{seat["copy_into"]} (body) FROM STDIN"))
      end)

      same(MapSet.new(column("SELECT body FROM notes WHERE body LIKE $1", ["#{name}%"])), MapSet.new(bodies))

      {:ok, out} =
        Repo.transaction(fn ->
          Ecto.Adapters.SQL.stream(Repo.get_dynamic_repo(), "COPY (SELECT body FROM notes WHERE body LIKE '#{name} 0%' ORDER BY body) TO STDOUT")
          |> Enum.flat_map(& &1.rows)
          |> IO.iodata_to_binary()
        end)

      same(String.split(out, "\n", trim: true), numbered)
      Repo.delete_all(from(n in Note, where: like(n.body, ^"#{name}%")))
    end)
  end

  def settings(seat) do
    zones = ["Europe/Vienna", "Asia/Tokyo", "UTC"]
    given = for zone <- zones, do: {zone, start(seat, database: seat["crowded"], pool_size: 1, parameters: [application_name: zone])}

    for {zone, repo} <- given do
      Repo.put_dynamic_repo(repo)
      rows("SET TimeZone = '#{zone}'")
    end

    for _ <- 1..3, {zone, repo} <- given do
      Repo.put_dynamic_repo(repo)
      same(rows("SELECT current_setting('TimeZone'), current_setting('application_name')"), [[zone, zone]])
    end

    for {_, repo} <- given, do: Supervisor.stop(repo)
  end

  def listen(seat) do
    channel = "channel_#{mark()}"
    {:ok, ears} = Postgrex.Notifications.start_link(options(seat))
    {:ok, ref} = Postgrex.Notifications.listen(ears, channel)
    with_repo(seat, [pool_size: 1], fn -> rows("SELECT pg_notify($1, $2)::text", [channel, "hello"]) end)

    receive do
      {:notification, ^ears, ^ref, ^channel, payload} -> same(payload, "hello")
    after
      20_000 -> raise "nothing was heard"
    end

    :ok = Postgrex.Notifications.unlisten(ears, ref)
    GenServer.stop(ears)
  end

  def big_results(seat) do
    with_repo(seat, [pool_size: 1], fn ->
      same(Enum.sum(Enum.map(column("SELECT repeat('x', 1048576) FROM generate_series(1, 50)"), &byte_size/1)), 50 * 1_048_576)
      same(one("SELECT 7"), 7)
    end)
  end

  # `Repo.stream` reads by portals, a few rows at a time, within a transaction.
  def streams(seat) do
    with_repo(seat, [pool_size: 1], fn ->
      {:ok, sum} =
        Repo.transaction(fn ->
          from(g in fragment("generate_series(1, 1200)"), select: fragment("?::int", g)) |> Repo.stream(max_rows: 100) |> Enum.sum()
        end)

      same(sum, 720_600)
      {:ok, few} = Repo.transaction(fn -> from(p in "projects", select: p.name) |> Repo.stream(max_rows: 1) |> Enum.take(2) end)
      same(length(few), 2)
      same(one("SELECT 7"), 7)
    end)
  end

  # As in tests: what a test writes is its own, and gone afterwards.
  def sandbox(seat) do
    body = mark()

    with_repo(seat, [pool: Ecto.Adapters.SQL.Sandbox, pool_size: 2], fn ->
      repo = Repo.get_dynamic_repo()
      Ecto.Adapters.SQL.Sandbox.mode(repo, :manual)

      for _ <- 1..2 do
        :ok = Ecto.Adapters.SQL.Sandbox.checkout(repo)
        Repo.insert!(%Note{body: body})
        {:error, _} = Repo.query("SELECT 1/0")
        {:ok, _} = Repo.transaction(fn -> Repo.insert!(%Note{body: body}) end)
        same(Repo.aggregate(from(n in Note, where: n.body == ^body), :count), 2)
        :ok = Ecto.Adapters.SQL.Sandbox.checkin(repo)
      end
    end)

    with_repo(seat, [pool_size: 1], fn -> same(Repo.aggregate(from(n in Note, where: n.body == ^body), :count), 0) end)
  end

  # A backend that is gone is an error of the call that met it, and of no later one.
  def disconnects(seat) do
    with_repo(seat, [pool_size: 1], fn ->
      {:error, _} = Repo.transaction(fn -> Repo.query("SELECT pg_terminate_backend(pg_backend_pid())") |> elem(1) |> Repo.rollback() end)
      until(fn -> match?({:ok, _}, Repo.query("SELECT 7")) end)
      same(column(@names), seat["rows"])
    end)
  end

  # More processes than connections, and callers that die within their transaction.
  def pools(seat) do
    with_repo(seat, [pool_size: 3], fn ->
      repo = Repo.get_dynamic_repo()

      for turn <- 1..30 do
        spawn_monitor(fn ->
          Repo.put_dynamic_repo(repo)

          Repo.transaction(fn ->
            same(column(@names), seat["rows"])
            if rem(turn, 5) == 0, do: exit(:killed)
          end)

          exit(:done)
        end)
      end
      |> Enum.frequencies_by(fn {_, ref} -> receive do: ({:DOWN, ^ref, _, _, reason} -> reason) end)
      |> same(%{done: 24, killed: 6})

      same(column(@names), seat["rows"])
    end)
  end

  def other_tenants(seat) do
    {:error, %Postgrex.Error{postgres: %{pg_code: "28P01"}}} = Postgrex.Protocol.connect([types: nil, database: seat["other"]] ++ Keyword.delete(options(seat), :database))

    with_repo(seat, [pool_size: 1], fn ->
      if seat["trespass_state"] == "" do
        same(rows(seat["trespass"]), [])
        rows("SELECT set_config('app.current_tenant_id', $1, false)", [seat["other"]])

        case Repo.query(seat["trespass"]) do
          {:ok, found} -> same(found.rows, [])
          {:error, error} -> same(error.postgres.pg_code, "42501")
        end
      else
        fails(seat["trespass_state"], seat["trespass"])
      end
    end)

    with_repo(seat, [pool_size: 1], fn -> same(column(@names), seat["rows"]) end)
  end

  defp options(seat) do
    [hostname: seat["host"], port: seat["port"], username: seat["user"], password: seat["password"], database: seat["tenant"]]
  end

  defp start(seat, more) do
    {:ok, repo} = Repo.start_link([name: nil] ++ Keyword.merge(options(seat), more))
    repo
  end

  defp with_repo(seat, more, work) do
    repo = start(seat, more)
    before = Repo.put_dynamic_repo(repo)

    try do
      work.()
    after
      Repo.put_dynamic_repo(before)
      Supervisor.stop(repo)
    end
  end

  # In a process of its own, so that what it leaves is gone with it.
  defp within(work) do
    {pid, ref} =
      spawn_monitor(fn ->
        Process.flag(:trap_exit, true)
        try do
          work.()
          exit(:normal)
        catch
          :exit, :normal -> exit(:normal)
          kind, error -> exit({:failed, Exception.format(kind, error, __STACKTRACE__)})
        end
      end)

    receive do
      {:DOWN, ^ref, :process, ^pid, :normal} -> :ok
      {:DOWN, ^ref, :process, ^pid, {:failed, text}} -> raise text
      {:DOWN, ^ref, :process, ^pid, reason} -> raise inspect(reason)
    after
      60_000 -> raise "it did not end"
    end
  end

  defp until(condition, turns \\ 2000) do
    cond do
      condition.() -> :ok
      turns == 0 -> raise "it did not come true"
      true -> Process.sleep(10) && until(condition, turns - 1)
    end
  end

  defp rows(sql, values \\ []), do: Repo.query!(sql, values).rows
  defp column(sql, values \\ []), do: Enum.map(rows(sql, values), &hd/1)
  defp one(sql, values \\ []), do: hd(column(sql, values))
  defp mark, do: Base.encode16(:crypto.strong_rand_bytes(6), case: :lower)
  defp escaped(text), do: text |> String.replace("\\", "\\\\") |> String.replace("\t", "\\t")

  defp same(found, expected) do
    unless found == expected, do: raise("expected #{inspect(expected)}, found #{inspect(found)}")
  end

  defp fails(state, sql, values \\ []) do
    {:error, %Postgrex.Error{postgres: %{pg_code: found}}} = Repo.query(sql, values)
    same(found, state)
  end
end

Matrix.main(Jason.decode!(IO.read(:stdio, :all))["seats"])
