defmodule AccountsService.Repo do
  use Ecto.Repo, otp_app: :accounts_service, adapter: Ecto.Adapters.Postgres
end
