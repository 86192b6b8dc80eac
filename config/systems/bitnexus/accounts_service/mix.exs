defmodule AccountsService.MixProject do
  use Mix.Project

  def project do
    [app: :accounts_service, version: "1.0.0", elixir: "~> 1.14", deps: deps()]
  end

  def application do
    [mod: {AccountsService.Application, []}, extra_applications: [:logger]]
  end

  defp deps do
    [{:ecto_sql, "~> 3.13"}, {:postgrex, "~> 0.21"}, {:jason, "~> 1.4"}]
  end
end
