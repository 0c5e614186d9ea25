-- Times are Unix seconds. JSON columns hold what is only ever read whole.
CREATE TABLE bundle (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, path TEXT NOT NULL UNIQUE,
    sha256 TEXT NOT NULL UNIQUE, sha512 TEXT NOT NULL, length INTEGER NOT NULL,
    kind TEXT NOT NULL, hardware TEXT NOT NULL, version TEXT NOT NULL, counter INTEGER NOT NULL,
    manifest_hash TEXT NOT NULL, security_floor INTEGER, created_at INTEGER NOT NULL,
    -- One version of one hardware is one software: a fallback is found by what the vehicle reads from its ECU.
    UNIQUE (hardware, version)
) STRICT;

CREATE TABLE release (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, created_at INTEGER NOT NULL, data TEXT NOT NULL
) STRICT;

CREATE TABLE vehicle (
    vin TEXT PRIMARY KEY, device TEXT UNIQUE, last_seen INTEGER NOT NULL, data TEXT NOT NULL
) STRICT;

CREATE TABLE ecu (
    vin TEXT NOT NULL REFERENCES vehicle (vin), ecu TEXT NOT NULL, data TEXT NOT NULL,
    PRIMARY KEY (vin, ecu)
) STRICT;

-- One-time provisioning tokens; only their SHA-256 is stored.
CREATE TABLE claim (
    token_hash TEXT PRIMARY KEY, vin TEXT NOT NULL REFERENCES vehicle (vin),
    expires_at INTEGER NOT NULL, used_at INTEGER
) STRICT;

CREATE TABLE campaign (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, created_at INTEGER NOT NULL, data TEXT NOT NULL
) STRICT;

CREATE TABLE assignment (
    id TEXT PRIMARY KEY, campaign TEXT NOT NULL REFERENCES campaign (id), vin TEXT NOT NULL REFERENCES vehicle (vin),
    stage INTEGER NOT NULL, state TEXT NOT NULL, since INTEGER NOT NULL, data TEXT NOT NULL,
    UNIQUE (campaign, vin)
) STRICT;
CREATE INDEX assignment_by_vehicle ON assignment (vin);
CREATE INDEX assignment_by_stage ON assignment (campaign, stage, state);
CREATE INDEX assignment_by_state ON assignment (campaign, state, since);

-- Every transition of an assignment with its reason: evidence, never changed.
CREATE TABLE transition (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, assignment TEXT NOT NULL, campaign TEXT NOT NULL,
    vin TEXT NOT NULL, from_state TEXT NOT NULL, to_state TEXT NOT NULL, reason TEXT NOT NULL
) STRICT;
CREATE INDEX transition_by_vehicle ON transition (vin, seq);

CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, vin TEXT NOT NULL, kind TEXT NOT NULL,
    text TEXT NOT NULL, data TEXT NOT NULL
) STRICT;
CREATE INDEX event_by_vehicle ON event (vin, seq);

-- The Director's files, one set per vehicle. Versions only grow: the newest row of a role says the last one.
CREATE TABLE director_file (
    vin TEXT NOT NULL, role TEXT NOT NULL, version INTEGER NOT NULL, expires INTEGER NOT NULL, bytes BLOB NOT NULL,
    PRIMARY KEY (vin, role, version)
) STRICT;
CREATE TABLE image_file (
    role TEXT NOT NULL, version INTEGER NOT NULL, expires INTEGER NOT NULL, bytes BLOB NOT NULL,
    PRIMARY KEY (role, version)
) STRICT;

-- Hash chain: hash = SHA-256 over the previous hash and this row.
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
    detail TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL
) STRICT;
