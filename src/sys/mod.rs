//! System calls, and all of this program's `unsafe` code.
//!
//! Thin: each function is one system call with its Rust contract. Policy (when to call, what to do
//! about an error) belongs to the rooms above. Sockets are never waited for here: whatever would
//! block returns [`std::io::ErrorKind::WouldBlock`], and interrupted calls are repeated.

pub mod clock;
pub mod cpu;
pub mod credentials;
mod descriptor;
pub mod directory;
pub mod file;
pub mod interfaces;
pub mod ktls;
pub mod limits;
pub mod lock;
pub mod mapping;
pub mod pipe;
pub mod poll;
pub mod probe;
pub mod socket;
pub mod suite;
#[cfg(test)]
pub(crate) mod test_support;

pub use self::descriptor::descriptor_of;
