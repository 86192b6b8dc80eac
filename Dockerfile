# syntax=docker/dockerfile:1
# The sidecar, as a user of its own, with nothing in the image that only builds it. docs/deploy.md
# A tag moves; the digest that it has today pins it: --build-arg PYTHON=python:3.13-slim-bookworm@sha256:...
ARG PYTHON=python:3.13-slim-bookworm
FROM ${PYTHON} AS build
WORKDIR /src
# For the compiled data path; it stays in this stage.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY requirements.lock pyproject.toml hatch_build.py README.md LICENSE ./
# The versions of the lock as constraints, which take no extras, and no hashes with a local folder.
RUN sed -e '/--hash=/d' -e 's/ \\$//' -e 's/\[[^]]*\]//' requirements.lock > constraints.txt \
    && python -m venv /opt/tenantproxy
COPY tenantproxy ./tenantproxy
COPY config ./config
RUN /opt/tenantproxy/bin/pip install --no-cache-dir --constraint constraints.txt ".[sidecar]"

FROM ${PYTHON}
ARG PYTHON
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tenantproxy" \
      org.opencontainers.image.description="Lends PostgreSQL connections that are proven to be a tenant's" \
      org.opencontainers.image.url="https://github.com/tenantproxy/tenantproxy" \
      org.opencontainers.image.source="https://github.com/tenantproxy/tenantproxy" \
      org.opencontainers.image.documentation="https://github.com/tenantproxy/tenantproxy/blob/main/docs/deploy.md" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/${PYTHON}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 tenantproxy \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tenantproxy
COPY --from=build /opt/tenantproxy /opt/tenantproxy
ENV PATH=/opt/tenantproxy/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
# Public HTTP, admin (metrics, health), PostgreSQL. All stay on the loopback unless configured otherwise; none opens on
# another address without a certificate, unless its section says ssl_required = "never".
EXPOSE 8080 8081 6432
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --start-interval=2s --retries=3 \
    CMD ["tenantproxy", "health", "--config", "/etc/tenantproxy/tenantproxy.toml"]
ENTRYPOINT ["tenantproxy"]
CMD ["serve", "--config", "/etc/tenantproxy/tenantproxy.toml"]
