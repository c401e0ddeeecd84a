cd /tmp/wt/ocitests
cargo build --release -p oci-tests 2>&1 | grep -E "^error" -A12 | head -${L:-60}
B=target/x86_64-unknown-linux-gnu/release/oci-tests
for r in runc crun; do timeout 250 $B --runtime $r "$@" | grep -vE "^ok|TAP|^  # quality" ; done
