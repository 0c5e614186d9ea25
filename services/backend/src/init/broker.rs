//! mosquitto's configuration: TLS 1.3 with client certificates only, the certificate's name as user, topics by that name.

use std::os::unix::fs::PermissionsExt as _;

use nix::unistd::{User, chown, geteuid};

use super::pki::BACKEND_CN;
use super::{InitError, InitOptions, write_public};
use crate::mqtt::TOPIC_ROOT;
use crate::settings::DataDir;

pub(super) fn make(dir: &DataDir, options: &InitOptions) -> Result<(), InitError> {
    let folder = dir.broker();
    let folder = std::path::absolute(&folder).unwrap_or(folder);
    let path = |name: &str| folder.join(name).display().to_string();
    let user = match &options.broker_user {
        Some(name) => name.clone(),
        None => User::from_uid(geteuid()).ok().flatten().map_or_else(|| "mosquitto".to_owned(), |user| user.name),
    };
    for text in [&path(""), &user, &options.mqtt_bind] {
        // mosquitto splits lines at spaces and knows no quotes.
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(InitError::BrokerText(text.clone()));
        }
    }
    let config = configuration(options, &user, &path);
    let acl = access_list();
    write_public(&folder.join("mosquitto.conf"), config.as_bytes())?;
    write_public(&folder.join("acl"), acl.as_bytes())
}

fn configuration(options: &InitOptions, user: &str, path: &dyn Fn(&str) -> String) -> String {
    format!(
        "# Written by pitstop-backend init.\n\
         per_listener_settings false\n\
         user {user}\n\
         allow_anonymous false\n\
         persistence false\n\
         # Hints and small status only: nothing large ever travels here.\n\
         message_size_limit 131072\n\
         max_keepalive 1200\n\
         max_inflight_messages 20\n\
         max_queued_messages 100\n\
         persistent_client_expiration 1d\n\
         acl_file {acl}\n\
         \n\
         listener {port} {bind}\n\
         cafile {ca}\n\
         certfile {certificate}\n\
         keyfile {key}\n\
         tls_version tlsv1.3\n\
         require_certificate true\n\
         use_identity_as_username true\n\
         max_connections -1\n\
         max_qos 1\n",
        acl = path("acl"),
        port = options.mqtt_port,
        bind = options.mqtt_bind,
        ca = path("client-ca.pem"),
        certificate = path("broker.pem"),
        key = path("broker.key"),
    )
}

fn access_list() -> String {
    format!(
        "# A device reads what is sent down to it and writes what goes up from it; %u is its certificate's common name.\n\
         pattern read {TOPIC_ROOT}/%u/dn/#\n\
         pattern write {TOPIC_ROOT}/%u/up/#\n\
         \n\
         user {BACKEND_CN}\n\
         topic read {TOPIC_ROOT}/+/up/#\n\
         topic write {TOPIC_ROOT}/+/dn/#\n"
    )
}

/// Gives the broker's user its files, if root makes them for somebody else.
pub(super) fn hand_over(dir: &DataDir, options: &InitOptions) -> Result<(), InitError> {
    let Some(name) = options.broker_user.as_ref().filter(|_| geteuid().is_root()) else { return Ok(()) };
    let user = User::from_name(name).ok().flatten().ok_or_else(|| InitError::NoUser(name.clone()))?;
    let folder = dir.broker();
    let failed = |cause: std::io::Error| InitError::Write(folder.clone(), cause);
    for entry in std::fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        chown(&path, Some(user.uid), Some(user.gid)).map_err(|cause| failed(cause.into()))?;
    }
    // It must reach its folder; what lies beside it stays closed.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).map_err(failed)
}
