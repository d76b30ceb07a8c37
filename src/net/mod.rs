//! Sockets, time and bytes: the only room that names the asynchronous runtime.
//!
//! One model serves both drivers (io_uring and epoll): wait for readiness, then make the direct,
//! non-blocking call. No buffer belongs to the kernel while a task waits, so nothing is held by an
//! idle connection, a dropped future loses no byte, and control records under kernel TLS can be
//! asked for with their type. The price over a ring receive is one recv(2) per wake-up.

pub mod deadline;
pub mod file_threads;
mod gather;
#[cfg(test)]
mod gather_tests;
pub mod offload;
mod pass;
pub mod relay;
pub mod rt;
mod send;
#[cfg(test)]
mod send_tests;
pub mod socket;
mod splice;
pub mod stream;
pub mod tunnel;
pub mod windows;
#[cfg(test)]
mod windows_tests;
