use pitstop_uptane::metadata::{OfflineSnapshot, OfflineTargets};
use pitstop_uptane::{Envelope, Metadata, PublicKey, Root, Snapshot, Targets, Time, Timestamp, canonical, strict};

const LIMIT: usize = 4096;

/// A metadata file, from the bytes to what must hold in it before any signature is looked at.
pub fn metadata(data: &[u8]) {
    if let Ok(value) = strict::parse(data, LIMIT) {
        assert!(data.len() <= LIMIT);
        if let Ok(bytes) = canonical::to_bytes(&value) {
            let again = strict::parse(&bytes, usize::MAX).ok().map(|value| canonical::to_bytes(&value));
            // Canonical JSON escapes fewer characters than JSON wants: then it is no JSON, but never another value.
            assert!(again.is_none_or(|again| again.is_ok_and(|again| again == bytes)));
        }
        let _ = PublicKey::from_json(&value);
    }
    if let Ok(text) = str::from_utf8(data) {
        assert!(Time::parse(text).is_ok_and(|time| time.to_string() == text) || Time::parse(text).is_err());
    }
    let Ok(envelope) = Envelope::parse(data, LIMIT) else { return };
    role::<Root>(&envelope);
    role::<Timestamp>(&envelope);
    role::<Snapshot>(&envelope);
    role::<Targets>(&envelope);
    role::<OfflineSnapshot>(&envelope);
    role::<OfflineTargets>(&envelope);
}

/// What is well formed stays so when it is written and read again.
fn role<M: Metadata>(envelope: &Envelope) {
    let Ok(metadata) = serde_json::from_value::<M>(envelope.signed().clone()) else { return };
    if metadata.check().is_ok() {
        assert!(metadata.version() > 0);
        let value = serde_json::to_value(&metadata).expect("metadata is JSON");
        assert!(serde_json::from_value::<M>(value).is_ok_and(|again| again.check().is_ok()));
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let signed = |signed: &str| {
        let (id, signature) = ("3b".repeat(32), "0c".repeat(64));
        format!(r#"{{"signatures":[{{"keyid":"{id}","sig":"{signature}"}}],"signed":{signed}}}"#).into_bytes()
    };
    let head =
        |kind: &str| format!(r#""_type":"{kind}","spec_version":"1.0.0","version":3,"expires":"2030-01-01T00:00:00Z""#);
    let (id, hash) = ("3b".repeat(32), "5a".repeat(32));
    let roles = ["root", "timestamp", "snapshot", "targets"];
    let roles = roles.map(|role| format!(r#""{role}":{{"keyids":["{id}"],"threshold":1}}"#)).join(",");
    let key = format!(r#"{{"keytype":"ed25519","scheme":"ed25519","keyval":{{"public":"{hash}"}}}}"#);
    let target = format!(
        r#"{{"length":5,"hashes":{{"sha256":"{hash}"}},"custom":{{"hardwareId":"tcu-1","releaseCounter":2}}}}"#
    );
    vec![
        signed(&format!(
            r#"{{{},"keys":{{"{id}":{key}}},"roles":{{{roles}}},"consistent_snapshot":true}}"#,
            head("root")
        )),
        signed(&format!(r#"{{{},"meta":{{"snapshot.json":{{"version":3,"length":77}}}}}}"#, head("timestamp"))),
        signed(&format!(
            r#"{{{},"meta":{{"targets.json":{{"version":3}},"tier-1.json":{{"version":1}}}}}}"#,
            head("snapshot")
        )),
        signed(&format!(r#"{{{},"targets":{{"tcu/5.1.0.raucb":{target}}}}}"#, head("targets"))),
        include_bytes!("../../services/domain/uptane/tests/vectors/root.json").to_vec(),
        include_bytes!("../../services/domain/uptane/tests/vectors/snapshot.json").to_vec(),
    ]
}
