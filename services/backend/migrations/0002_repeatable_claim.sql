-- Which device a used token made, and the SHA-256 of the key it was made for. Null where a token was used before this was kept: such a one stays used.
ALTER TABLE claim ADD COLUMN device TEXT;
ALTER TABLE claim ADD COLUMN key_sha256 TEXT;
