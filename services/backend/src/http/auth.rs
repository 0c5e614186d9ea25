//! Who may use the admin listener: the holder of the token.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pitstop_types::Digest;

use crate::backend::Backend;
use crate::error::Error;

/// Passes requests with the right token. A browser may give it as a password to look (GET); what changes something takes a bearer
/// token only, so that no foreign page can make a browser send it.
pub(super) async fn require_token(State(backend): State<Arc<Backend>>, request: Request, next: Next) -> Response {
    let read_only = matches!(*request.method(), Method::GET | Method::HEAD);
    let given = token(request.headers(), read_only);
    // Hashes are compared: how long that takes says nothing about the token.
    if given.is_some_and(|token| Digest::of(token.as_bytes()) == backend.admin_token) {
        return next.run(request).await;
    }
    let mut refusal = Error::Unauthenticated.into_response();
    let ways = axum::http::HeaderValue::from_static("Basic realm=\"pitstop\", Bearer");
    refusal.headers_mut().insert(WWW_AUTHENTICATE, ways);
    refusal
}

fn token(headers: &HeaderMap, allow_basic: bool) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if !allow_basic || !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    pair.split_once(':').map(|(_, password)| password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn a_browsers_password_is_taken_for_looking_only() {
        let basic = format!("Basic {}", STANDARD.encode("operator:secret"));
        assert_eq!(token(&headers(&basic), true).as_deref(), Some("secret"));
        assert_eq!(token(&headers(&basic), false), None);
        assert_eq!(token(&headers("bearer secret"), false).as_deref(), Some("secret"));
        for bad in ["secret", "Basic !!", "Basic c2VjcmV0", "Digest x"] {
            assert_eq!(token(&headers(bad), true), None, "{bad}");
        }
    }
}
