//! Bodies and queries whose errors have our form.

use axum::Json;
use axum::extract::rejection::{BytesRejection, JsonRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// `axum::Json` with a named error.
pub(super) struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        Json::<T>::from_request(request, state).await.map(|Json(value)| Self(value)).map_err(refused)
    }
}

/// A body that may be left out.
pub(super) struct MaybeBody<T>(pub Option<T>);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for MaybeBody<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let body = Option::<Json<T>>::from_request(request, state).await.map_err(refused)?;
        Ok(Self(body.map(|Json(value)| value)))
    }
}

/// `axum::extract::Query` with a named error.
pub(super) struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(value)| Self(value)).map_err(|rejection| Error::Invalid(rejection.body_text()))
    }
}

fn refused(rejection: JsonRejection) -> Error {
    match rejection {
        JsonRejection::BytesRejection(rejection) => too_large(&rejection),
        rejection => Error::Invalid(rejection.body_text()),
    }
}

pub(super) fn too_large(rejection: &BytesRejection) -> Error {
    if rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE {
        Error::BodyTooLarge
    } else {
        Error::Invalid(rejection.body_text())
    }
}
