# What was recorded of Ecto: `python -m tests.e2e.pg.recorder HOST:PORT TRACE elixir tests/e2e/pg/elixir/day.exs`
# Its first argument is the port of the recorder, then user, password and database of a seat; ERL_LIBS as in ecto.exs.

for app <- [:postgrex, :ecto_sql], do: {:ok, _} = Application.ensure_all_started(app)
Logger.configure(level: :none)

defmodule Day.Repo do
  use Ecto.Repo, otp_app: :day, adapter: Ecto.Adapters.Postgres
end

defmodule Day.Note do
  use Ecto.Schema

  @primary_key false
  schema "notes" do
    field(:body, :string)
  end
end

defmodule Day do
  import Ecto.Query
  alias Day.{Note, Repo}
  alias Ecto.Adapters.SQL

  def queries do
    for number <- 1..3, do: 8 = hd(hd(Repo.query!("SELECT $1::int + $2::int", [number, 8 - number]).rows))
    3 = Repo.aggregate(from(p in "projects", where: p.name != ^"-"), :count)
    {:error, _} = Repo.query("SELECT 1 / $1::int", [0])
    {:error, _} = Repo.query("SELEC 1", [])

    # It is prepared by then.
    try do
      Repo.query!("SELECT $1::int + 1", ["no number"])
    rescue
      DBConnection.EncodeError -> :ok
    end

    {:ok, _} = Repo.query("SELECT $1::int + 1", [1])
    {:ok, _} = Repo.query("SELECT $1::uuid, $2::jsonb::text, $3::numeric, $4::timestamptz", [<<1::128>>, %{"a" => 1}, Decimal.new("1.5"), ~U[2026-12-01 00:00:00.000000Z]])
  end

  def transactions do
    {:error, :undone} =
      Repo.transaction(fn ->
        {1, _} = Repo.insert_all(Note, [%{body: "of Ecto"}])
        {:error, _} = Repo.query("SELECT 1 / $1::int", [0], mode: :savepoint)
        {:error, _} = Repo.query("SELEC 1", [], mode: :savepoint)
        1 = Repo.aggregate(from(n in Note, where: n.body == ^"of Ecto"), :count)
        {:error, _} = Repo.query("SELECT 1 / $1::int", [0])
        {:error, _} = Repo.query("SELECT 8", [])
        Repo.rollback(:undone)
      end)

    {:ok, 45} = Repo.transaction(fn -> from(g in fragment("generate_series(1, 9)"), select: fragment("?::int", g)) |> Repo.stream(max_rows: 4) |> Enum.sum() end)
    {:ok, _} = Repo.transaction(fn -> SQL.stream(Repo.get_dynamic_repo(), "COPY (SELECT 'a' UNION ALL SELECT 'b') TO STDOUT") |> Enum.to_list() end)
  end

  def sandbox(repo) do
    SQL.Sandbox.mode(repo, :manual)

    for _ <- 1..2 do
      :ok = SQL.Sandbox.checkout(repo)
      {1, _} = Repo.insert_all(Note, [%{body: "of Ecto"}])
      {:error, _} = Repo.query("SELECT 1 / $1::int", [0])
      {:ok, _} = Repo.transaction(fn -> Repo.update_all(Note, set: [body: "of Ecto, again"]) end)
      1 = Repo.aggregate(from(n in Note, where: n.body == ^"of Ecto, again"), :count)
      :ok = SQL.Sandbox.checkin(repo)
    end
  end

  def with_repo(options, work) do
    {:ok, repo} = Repo.start_link([name: nil, pool_size: 1] ++ options)
    Repo.put_dynamic_repo(repo)
    work.(repo)
    Supervisor.stop(repo)
  end
end

[port, user, password, database] = System.argv()
options = [hostname: "127.0.0.1", port: String.to_integer(port), username: user, password: password, database: database]

Day.with_repo(options, fn _ ->
  Day.queries()
  Day.transactions()
end)

Day.with_repo([prepare: :unnamed] ++ options, fn _ ->
  Day.queries()
  Day.transactions()
end)

Day.with_repo([pool: Ecto.Adapters.SQL.Sandbox] ++ options, &Day.sandbox/1)

{:ok, ears} = Postgrex.Notifications.start_link(options)
{:ok, ref} = Postgrex.Notifications.listen(ears, "of_ecto")
:ok = Postgrex.Notifications.unlisten(ears, ref)
GenServer.stop(ears)
