defmodule AccountsService.User do
  use Ecto.Schema

  @primary_key {:id, :binary_id, autogenerate: true}
  @timestamps_opts [inserted_at: :created_at, type: :utc_datetime_usec]
  schema "users" do
    field(:tenant_id, :binary_id, read_after_writes: true)
    field(:email, :string)
    field(:password_hash, :string, redact: true)
    field(:role, :string, default: "member")
    timestamps()
  end

  def changeset(user, given) do
    user
    |> Ecto.Changeset.cast(given, [:email, :password_hash, :role])
    |> Ecto.Changeset.validate_required([:email, :password_hash])
    |> Ecto.Changeset.unique_constraint(:email, name: :users_tenant_id_email_key)
  end
end
