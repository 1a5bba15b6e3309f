# One image for every process of ours; docker-compose.yml says which command each service runs.

FROM python:3.11-slim-bookworm AS packages
COPY requirements.txt .
# Wheels only, each with the hash that the lock names: no compiler is needed, here or below. The environment has no pip
# of its own.
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
        --only-binary=:all: --require-hashes -r requirements.txt

FROM python:3.11-slim-bookworm
# Nothing that runs here installs anything. The one folder that is ours to write is beat's; the rest is read-only.
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore setuptools wheel pip \
    && groupadd --gid 10001 altiora \
    && useradd --uid 10001 --gid altiora --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin altiora \
    && install --directory --owner altiora --group altiora --mode 0700 /var/lib/altiora
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
COPY --from=packages /opt/venv /opt/venv
COPY db/ db/
COPY accounts/ accounts/
COPY api/ api/
COPY pipeline/ pipeline/
COPY schedules/ schedules/
COPY tasks/ tasks/
COPY receiver/ receiver/
COPY ops/ ops/
RUN printf '#!/opt/venv/bin/python\nfrom ops.cli import main\n\nmain()\n' > /usr/local/bin/altiora \
    && chmod 0755 /usr/local/bin/altiora \
    && python -m compileall -q .
# Which commit this is, for `altiora --version`, /health/live and /metrics. Last, so that it ends no layer's cache.
ARG ALTIORA_COMMIT=""
ENV ALTIORA_COMMIT=$ALTIORA_COMMIT
USER 10001:10001
EXPOSE 8000
# Of the receiver, which is what runs when no other command is given. Alive, not ready: without a database it answers
# 503, so that senders try again, and must not be killed for it.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/health/live'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["altiora", "receiver", "--host", "0.0.0.0", "--port", "8000"]
