defmodule AccountsService.Tenants do
  @moduledoc "A small pool for each tenant, made when it is first asked for: the tenant is the database that a repo connects to."
  use Supervisor
  alias AccountsService.Repo

  def start_link(_), do: Supervisor.start_link(__MODULE__, [], name: __MODULE__)

  @impl true
  def init(_) do
    children = [
      {Registry, keys: :unique, name: __MODULE__.Names},
      {DynamicSupervisor, name: __MODULE__.Repos}
    ]

    Supervisor.init(children, strategy: :rest_for_one)
  end

  @doc "What `work` asks of the repo, it asks as this tenant. Take the tenant from what was verified."
  def run(tenant, work) do
    with {:ok, repo} <- started(tenant) do
      previous = Repo.put_dynamic_repo(repo)

      try do
        work.()
      after
        Repo.put_dynamic_repo(previous)
      end
    end
  end

  defp started(tenant) do
    name = {:via, Registry, {__MODULE__.Names, tenant}}

    case DynamicSupervisor.start_child(__MODULE__.Repos, {Repo, name: name, database: tenant, pool_size: 2}) do
      {:ok, repo} -> {:ok, repo}
      {:error, {:already_started, repo}} -> {:ok, repo}
      error -> error
    end
  end
end
