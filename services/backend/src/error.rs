//! The one error of the services: a stable code, a text, and the HTTP status it becomes.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::store::StoreError;

/// Why the backend did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no such {0}")]
    NotFound(&'static str),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Conflict(String),
    /// Code and text.
    #[error("{1}")]
    Forbidden(&'static str, String),
    #[error("a valid token is needed")]
    Unauthenticated,
    #[error("{0} is larger than {1} bytes")]
    TooLarge(&'static str, u64),
    /// What, and how many are taken.
    #[error("{0} has more than {1} entries")]
    TooMany(&'static str, usize),
    #[error("the body is larger than allowed")]
    BodyTooLarge,
    /// The manifest is not believed: code by cause.
    #[error("{1}")]
    Manifest(&'static str, String),
    #[error("the bundle is refused: {0}")]
    Bundle(String),
    #[error("the store failed")]
    Store(#[source] StoreError),
    #[error("{0} failed")]
    Internal(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Names what failed inside; the cause is logged, not shown.
    pub fn internal<E: Into<Box<dyn std::error::Error + Send + Sync>>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |cause| Self::Internal(what, cause.into())
    }

    /// Stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not-found",
            Self::Invalid(_) => "invalid",
            Self::Conflict(_) => "conflict",
            Self::Forbidden(code, _) | Self::Manifest(code, _) => code,
            Self::Unauthenticated => "unauthenticated",
            Self::TooLarge(..) | Self::TooMany(..) | Self::BodyTooLarge => "too-large",
            Self::Bundle(_) => "bundle-refused",
            Self::Store(_) | Self::Internal(..) => "internal",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Forbidden(..) => StatusCode::FORBIDDEN,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::TooLarge(..) | Self::TooMany(..) | Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Manifest(..) | Self::Bundle(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Store(_) | Self::Internal(..) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Exists(what) => Self::Conflict(format!("{what} exists already")),
            other => Self::Store(other),
        }
    }
}

/// The body of every error answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// Stable word, e.g. `not-found`.
    pub code: String,
    pub text: String,
}

impl ErrorBody {
    pub fn new(code: &str, text: String) -> Self {
        Self { error: ErrorDetail { code: code.to_owned(), text } }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        if matches!(self, Self::Store(_) | Self::Internal(..)) {
            log::error!("{self}: {}", causes(&self));
        }
        (self.status(), Json(ErrorBody::new(self.code(), self.to_string()))).into_response()
    }
}

/// The chain of causes in one line.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = error.source();
    while let Some(cause) = next {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
