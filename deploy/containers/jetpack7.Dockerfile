# Hobbit Edge on JetPack 7.2 (L4T 39.2, CUDA 13.2; its containers are those of Arm servers). Not yet built: the base is NVIDIA's.
# Run in an unpacked offline bundle, hobbit-edge-VERSION-jetpack-7.2: it is the build context and has this file. Nothing is
# fetched but the base image and its Python.
#   docker build -f deploy/containers/jetpack7.Dockerfile -t hobbit-edge:jetpack7 .
# Models never go into the image: mount their folder at /models. deploy/containers/compose.yaml has a service.
ARG BASE=nvcr.io/nvidia/cuda:13.2.0-runtime-ubuntu24.04
FROM ${BASE}

SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
USER 0
# Python of the base system; the glob keeps the version that the bundle has wheels for
RUN apt-get update \
  && apt-get install -y --no-install-recommends 'python3=3.12.*' \
  && rm -rf /var/lib/apt/lists/*

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
