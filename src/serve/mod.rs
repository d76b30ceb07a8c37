//! From a request to a response.

pub mod content_type;
pub mod error_page;
pub mod path;
