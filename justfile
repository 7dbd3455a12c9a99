# The habits; `just` lists them. Continuous integration and the README need only tests/run.

# List the recipes.
default:
    @just --list

# Everything that must hold, with the real peers.
test:
    tests/run

# Everything that needs no peers.
quick:
    tests/run quick

# Nothing lost: a hundred kills and every other fault, on both databases; about an hour. See docs/faults.md.
faults *arguments:
    cargo build --locked --workspace --all-features
    target/debug/faults --database sqlite {{arguments}}
    target/debug/faults --database postgres {{arguments}}

# Format.
fmt:
    cargo fmt --all

# Lint as tests/run does.
clippy:
    cargo clippy --workspace --all-targets --all-features -- -D warnings

# Licenses, bans, sources and advisories; needs cargo-deny and its advisory database.
deny:
    cargo deny --all-features check

# One process on loopback with everything in it.
demo *arguments:
    cargo run --package threepid-server -- demo {{arguments}}

# The documentation of the code, without warnings.
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace --all-features

# Requests that schemathesis makes up, more of them and others each time.
fuzz-api examples='1000':
    SCHEMATHESIS_EXAMPLES={{examples}} SCHEMATHESIS_SEED=$(date +%s) \
        cargo test --package threepid-tests --all-features --test stories openapi -- --nocapture

# Install the real peers of the tests.
peers:
    tests/setup

# Bring the program into each state that an alert is about, until a real Prometheus has fired every one of them.
alerts:
    cargo build --workspace --all-features
    cargo test --workspace --all-features --test stories alerts::
    cat target/test-artifacts/alerts.txt

# matrix-rust-sdk through nginx beside Synapse. It takes minutes to build, in a workspace of its own.
matrix-rust-sdk:
    cargo build --locked --manifest-path tests/matrix-rust-sdk/Cargo.toml --target-dir target/matrix-rust-sdk
    cargo build --locked --workspace --all-features --bins
    target/debug/sdk target/matrix-rust-sdk/debug/threepid-matrix-rust-sdk

# How fast it is, against references in the same run; docs/benchmark.md says how to read it.
bench *arguments:
    cargo build --release --locked --all-features -p threepid-server -p threepid-tests --bin threepid --bin bench
    target/release/bench {{arguments}}

# The instructions of the three hottest requests in a release build; needs valgrind.
instructions:
    cargo build --release --locked --all-features -p threepid-server -p threepid-tests --bin threepid --bin bench
    target/release/bench instructions

# The generators for long: so many cases each, and so many seconds for all; it ends with the number of executions.
fuzz cases="20000" seconds="7200":
    tests/fuzz {{cases}} {{seconds}}

# Whether a comparison of secrets takes the same time wherever they differ: Welch's t-test on many runs.
constant-time:
    cargo run --release --package threepid-domain --example constant_time

# Whether whoever asks can tell which addresses have accounts: `hide_in_use` on a running server, and without it; Welch's t-test.
tell-apart *arguments:
    cargo build --locked --workspace --all-features
    target/debug/bench tell-apart {{arguments}}
