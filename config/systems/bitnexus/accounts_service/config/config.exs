import Config

config :accounts_service, ecto_repos: [AccountsService.Repo]
