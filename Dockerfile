# GPROXY in an image that holds one static binary and its configuration, and nothing else.
#
#   docker build -t gproxy .
#   docker run --stop-timeout 60 -p 8787:8787 -v gproxy-data:/data \
#       -v ./config.toml:/etc/gproxy/config.toml:ro gproxy
#
# Docker kills ten seconds after it has asked to stop, unless it is told otherwise: open requests
# have timeouts.drain_ms (30 s) to end, and up to 15 s to be settled and written. In a compose file
# it is stop_grace_period: 60s, in Kubernetes terminationGracePeriodSeconds: 60.
#
# The shipped config.toml holds keys that everybody knows, so the gateway refuses to listen on
# anything but loopback with it: give it one of your own.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --release \
        --target "$(uname -m)-unknown-linux-gnu" \
    && install -D "target/$(uname -m)-unknown-linux-gnu/release/gproxy" /image/gproxy \
    && install -d -m 700 /image/data \
    && install -d -m 1777 /image/tmp

FROM scratch
COPY --from=build --chown=65532:65532 /image /
USER 65532:65532
VOLUME /data
EXPOSE 8787
ENV GPROXY_CONFIG=/etc/gproxy/config.toml GPROXY_DATA_DIR=/data GPROXY_HOST=0.0.0.0
ENTRYPOINT ["/gproxy"]
