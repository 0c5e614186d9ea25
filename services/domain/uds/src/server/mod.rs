//! The server core (being written).
