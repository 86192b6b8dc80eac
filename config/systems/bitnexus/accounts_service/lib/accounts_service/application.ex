defmodule AccountsService.Application do
  use Application

  @impl true
  def start(_type, _args) do
    Supervisor.start_link([AccountsService.Tenants], strategy: :one_for_one, name: AccountsService.Supervisor)
  end
end
