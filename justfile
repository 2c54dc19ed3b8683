# `just` lists what there is.
default:
    @just --list --unsorted

# Check the toolchain and install what the build needs
setup:
    scripts/setup

# Install the tools of the tests
test-tools:
    scripts/test-tools

# Format everything
fmt:
    cargo fmt --all

# Lint as the tests do
lint:
    cargo fmt --all --check
    cargo clippy --all-targets -- -D warnings
    cargo deny --offline check bans licenses sources

# Type-check, the quick way
check:
    cargo check --all-targets

# Run tests by name: `just test`, `just test engine::`
test filter='':
    cargo nextest run {{ filter }}

# Everything that must pass before a change is merged
all:
    scripts/test

# The main job with the embedded model: no key, no server
demo:
    cargo run -- demo

# A server for development; its key is printed once
serve *flags:
    cargo run -- serve --dev {{ flags }}

# Kill the real binary at every named point and at random, and compare with a model
crash kills='50' store='sqlite' *flags:
    cargo run -- selftest crash --kills {{ kills }} --store {{ store }} {{ flags }}

# The checks that take long: all, or those named
proof *names:
    scripts/proof {{ names }}

# Simulated worlds: nodes that die and stand still over a store that fails, each drawn from its number
simulate seeds='20000':
    DISPATCH_SIM_SEEDS={{ seeds }} cargo nextest run --no-capture every_world_keeps_its_promises

# Load a server and measure it: `just bench speed`, `overload`, `fair` or `soak`
bench *flags='speed':
    cargo build --release --bin dispatch
    cargo run --release --package dispatch-load -- {{ flags }}

# The API of a real server against its document
contract *examples:
    scripts/contract {{ examples }}

# Feed one parser what no one would send: `just fuzz url`; without a name it says which there are
fuzz *target:
    scripts/fuzz {{ target }}

# Write the generated files anew: openapi/, schemas/
generate:
    cargo run --quiet -- openapi --out openapi/dispatch.json
    cargo run --quiet -- schema --out schemas
