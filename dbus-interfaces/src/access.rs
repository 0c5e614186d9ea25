//! Who may call what: see `access.toml`.
