defmodule AccountsService.Accounts do
  import Ecto.Query
  alias AccountsService.{Repo, Tenants, User}

  def list(tenant) do
    Tenants.run(tenant, fn -> Repo.all(from(u in User, order_by: u.email)) end)
  end

  @doc "All of them, or none."
  def invite(tenant, people) do
    Tenants.run(tenant, fn ->
      Repo.transaction(fn ->
        for person <- people do
          case %User{} |> User.changeset(person) |> Repo.insert() do
            {:ok, user} -> user
            {:error, changeset} -> Repo.rollback(changeset.errors)
          end
        end
      end)
    end)
  end
end
