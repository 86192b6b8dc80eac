"""What runs in a project's own Python, which need not have tenantproxy: these files import the project's tool alone."""
