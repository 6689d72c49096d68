//! The `shoal-operator` command: parses, runs, maps the end to an exit code.

fn main() {}
