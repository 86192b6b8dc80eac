"""What does `python -m tenantproxy` do? The same as the command `tenantproxy`."""

from tenantproxy.cli import main

main()
