# syntax=docker/dockerfile:1
FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin dispatch && cp target/release/dispatch /dispatch

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home dispatch \
    && install --directory --owner=dispatch --group=dispatch /data
COPY --from=build /dispatch /usr/local/bin/dispatch
USER dispatch
VOLUME /data
EXPOSE 8080
# The listening address is of no use outside: name the server's own with `--env DISPATCH_PUBLIC_URL=https://dispatch.example.com`,
# or the URLs of files that executions make lead nowhere.
ENV DISPATCH_LISTEN=0.0.0.0:8080 DISPATCH_DATA=/data DISPATCH_LOG_JSON=true
# Runs may end in five seconds; what is left is handed back for the next server to take up.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s CMD ["dispatch", "health"]
ENTRYPOINT ["dispatch"]
CMD ["serve"]
