# What the demo asks of the service: `elixir day.exs TENANT...`, with ERL_LIBS, PGPORT and PGPASSWORD. A line for each tenant.
for app <- [:postgrex, :ecto_sql], do: {:ok, _} = Application.ensure_all_started(app)
Logger.configure(level: :none)
here = __DIR__

for {app, settings} <- Config.Reader.read!(Path.join(here, "config/runtime.exs"), env: :prod) do
  Application.put_all_env([{app, settings}])
end

{:ok, _, _} = Kernel.ParallelCompiler.compile(Path.wildcard(Path.join(here, "lib/**/*.ex")))
{:ok, _} = AccountsService.Application.start(:normal, [])

for tenant <- System.argv() do
  {:ok, _} = AccountsService.Accounts.invite(tenant, [%{email: "eli@#{tenant}.example", password_hash: "none"}])
  twice = List.duplicate(%{email: "twin@#{tenant}.example", password_hash: "none"}, 2)
  {:error, [email: {"has already been taken", _}]} = AccountsService.Accounts.invite(tenant, twice)
  users = AccountsService.Accounts.list(tenant)
  true = Enum.all?(users, &(&1.tenant_id == tenant))
  IO.puts("#{tenant} #{length(users)}")
end
