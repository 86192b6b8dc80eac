# syntax=docker/dockerfile:1
# The sidecar, as a user of its own, with nothing in the image that only builds it.
FROM python:3.13-slim-bookworm AS build
WORKDIR /src
# For the compiled data path; it stays in this stage.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY requirements.lock pyproject.toml hatch_build.py README.md LICENSE ./
# The versions of the lock as constraints, which take no extras, and no hashes with a local folder.
RUN sed -e '/--hash=/d' -e 's/ \\$//' -e 's/\[[^]]*\]//' requirements.lock > constraints.txt \
    && python -m venv /opt/tenantproxy
COPY tenantproxy ./tenantproxy
COPY config ./config
RUN /opt/tenantproxy/bin/pip install --no-cache-dir --constraint constraints.txt ".[sidecar]"

FROM python:3.13-slim-bookworm
LABEL org.opencontainers.image.title="tenantproxy" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 tenantproxy \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tenantproxy
COPY --from=build /opt/tenantproxy /opt/tenantproxy
ENV PATH=/opt/tenantproxy/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
# Public HTTP, admin (metrics, health), PostgreSQL. The admin listener stays on the loopback unless configured otherwise.
EXPOSE 8080 8081 6432
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8081/livez', timeout=2)"]
ENTRYPOINT ["tenantproxy"]
CMD ["serve", "--config", "/etc/tenantproxy/tenantproxy.toml"]
