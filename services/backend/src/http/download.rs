//! Sending a bundle: whole or a range, with the hash as its entity tag.

use std::io::SeekFrom;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, IF_RANGE,
    RANGE,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::range::{Part, part};
use crate::backend::Backend;
use crate::error::Error;
use crate::model::Bundle;

/// Read and sent at once; larger saves nothing over TLS records of 16 KiB.
const CHUNK: usize = 64 * 1024;

/// Answers GET (and HEAD, whose body axum drops) for `bundle`.
pub(super) async fn send(backend: Arc<Backend>, bundle: &Bundle, headers: &HeaderMap) -> Result<Response, Error> {
    let tag = format!("\"{}\"", bundle.sha256);
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let lists = |value: &str| value.trim() == "*" || value.split(',').any(|one| one.trim() == tag);
    if header(IF_MATCH).is_some_and(|value| !lists(value)) {
        return Ok(StatusCode::PRECONDITION_FAILED.into_response());
    }
    if header(IF_NONE_MATCH).is_some_and(lists) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    // A range of another file is worth nothing to the client: it gets this one whole.
    let wanted = if header(IF_RANGE).is_some_and(|value| value.trim() != tag) { None } else { header(RANGE) };
    let (status, start, length) = match part(wanted, bundle.length) {
        Part::Whole => (StatusCode::OK, 0, bundle.length),
        Part::Range { start, length } => (StatusCode::PARTIAL_CONTENT, start, length),
        Part::Unsatisfiable => {
            let range = [(CONTENT_RANGE, format!("bytes */{}", bundle.length))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, range).into_response());
        }
    };
    let path = backend.dir.objects().join(&bundle.sha256);
    let mut file = File::open(path).await.map_err(Error::internal("opening a bundle"))?;
    file.seek(SeekFrom::Start(start)).await.map_err(Error::internal("reading a bundle"))?;
    let mut response = Response::new(body(backend, file, length));
    *response.status_mut() = status;
    let range = format!("bytes {start}-{}/{}", (start + length).saturating_sub(1), bundle.length);
    let all = [
        (ETAG, tag),
        (ACCEPT_RANGES, "bytes".to_owned()),
        (CONTENT_TYPE, "application/vnd.rauc-bundle".to_owned()),
        // The path names the content: it never changes.
        (CACHE_CONTROL, "private, max-age=31536000, immutable".to_owned()),
        (CONTENT_LENGTH, length.to_string()),
        (CONTENT_RANGE, range),
    ];
    for (name, value) in all {
        if name != CONTENT_RANGE || status == StatusCode::PARTIAL_CONTENT {
            response.headers_mut().insert(name, value.parse().map_err(Error::internal("writing a header"))?);
        }
    }
    Ok(response)
}

fn body(backend: Arc<Backend>, file: File, length: u64) -> Body {
    Body::from_stream(stream::try_unfold((file, length), move |(mut file, left)| {
        let backend = Arc::clone(&backend);
        async move {
            if left == 0 {
                return Ok(None);
            }
            let mut chunk = vec![0; usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)];
            let read = file.read(&mut chunk).await?;
            if read == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
            }
            chunk.truncate(read);
            backend.metrics.download_bytes.add(read as u64);
            Ok(Some((Bytes::from(chunk), (file, left - read as u64))))
        }
    }))
}
