# Takeoff in a container: docker build -t takeoff . && docker run -p 127.0.0.1:8000:80 takeoff
# docs/guides/container.md tells more. One image runs at full speed on any processor of its architecture.

FROM debian:trixie-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ python3 python3-venv
WORKDIR /src
COPY setup.sh requirements.lock packaging/install.sh ./
COPY native native
RUN ./install.sh kernels /opt/takeoff
RUN ./install.sh packages /opt/takeoff
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN ./install.sh takeoff /opt/takeoff

FROM debian:trixie-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 libgomp1 ca-certificates \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1000 --gid 0 --home-dir /code --no-create-home --shell /usr/sbin/nologin takeoff \
    && mkdir -p /code/models && chown -R takeoff:root /code && chmod -R g=u /code
COPY --from=build /opt/takeoff /opt/takeoff
WORKDIR /code
ENV PATH=/opt/takeoff/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/code \
    TAKEOFF_HOME=/code \
    TAKEOFF_HOST=0.0.0.0 \
    TAKEOFF_PORT=80 \
    TAKEOFF_MAKE_KEY=true
EXPOSE 80 3000 3001 3003
USER 1000
ENTRYPOINT ["takeoff", "serve"]
