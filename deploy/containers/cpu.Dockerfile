# Hobbit Edge on a CPU, x86-64 or arm64.
# Run in an unpacked offline bundle, hobbit-edge-VERSION-x86-64 (or -arm64): it is the build context and has this file. Nothing is
# fetched but the base image.
#   docker build -f deploy/containers/cpu.Dockerfile -t hobbit-edge:cpu .
# Models never go into the image: mount their folder at /models. deploy/containers/compose.yaml has a service.
ARG BASE=docker.io/library/python:3.11-slim-bookworm
FROM ${BASE}

SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
USER 0
# a user without a shell, as the systemd unit's; state and caches are the only places it can write
RUN --mount=type=bind,source=.,target=/bundle \
  groupadd --gid 10001 hobbit \
  && useradd --uid 10001 --gid hobbit --no-create-home --home-dir /var/lib/hobbit-edge --shell /usr/sbin/nologin hobbit \
  && install -d -o hobbit -g hobbit -m 0750 /var/lib/hobbit-edge /var/cache/hobbit-edge \
  && /bundle/deploy/environment.sh /opt/hobbit-edge --python python3

ENV PATH=/opt/hobbit-edge/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    STATE_DIRECTORY=/var/lib \
    CACHE_DIRECTORY=/var/cache \
    HOBBIT_PORT=8080
USER 10001:10001
WORKDIR /var/lib/hobbit-edge
VOLUME ["/var/lib/hobbit-edge", "/var/cache/hobbit-edge"]
EXPOSE 8080
# loading a bundle for the first time reads all of it: minutes on a slow drive
HEALTHCHECK --interval=30s --timeout=5s --start-period=30m --retries=3 \
  CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['HOBBIT_PORT'] + '/health/ready', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["hobbit"]
CMD ["serve", "/models/bundle"]
