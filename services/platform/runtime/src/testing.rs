//! For tests of services: two ends of a bus without a bus.

use std::os::unix::net::UnixStream;

use zbus::connection::Builder;
use zbus::{Connection, Guid};

/// A connection for the service under test and one for its caller.
///
/// # Panics
/// If the pair cannot be made: a test cannot go on then.
#[expect(clippy::expect_used, reason = "for tests only: without the pair there is nothing to test")]
pub async fn pair() -> (Connection, Connection) {
    let (a, b) = UnixStream::pair().expect("a socket pair");
    let server = Builder::unix_stream(a).server(Guid::generate()).p2p();
    let client = Builder::unix_stream(b).p2p();
    let (server, client) = tokio::join!(server.build(), client.build());
    (server.expect("the serving end"), client.expect("the calling end"))
}

/// What the object at `path` says of itself.
///
/// # Panics
/// If it does not answer.
#[expect(clippy::expect_used, reason = "for tests only: no answer is the failure")]
pub async fn introspect(client: &Connection, path: &str) -> String {
    let proxy = zbus::fdo::IntrospectableProxy::builder(client)
        .destination("io.pitstop.Test")
        .path(path.to_owned())
        .build()
        .await
        .expect("a proxy");
    proxy.introspect().await.expect("introspection data")
}
