//! The floor: what the same bytes cost without TLS and without nearly everything that makes a
//! server. It answers out of memory, by one receive and one send through io_uring for each request.
//!
//! It is no peer, and not to be reached: it looks at no file, writes no date, and takes requests
//! only as this benchmark's clients send them, each in one piece.

use std::fs;
use std::io::{self, ErrorKind};
use std::process::Command;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};

use super::{Demand, Server, Service, Site};
use crate::Failure;
use crate::arguments::FloorOrder;
use crate::fixture::FILES;

#[derive(Debug)]
pub(super) struct Floor;

impl Server for Floor {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> Result<String, Failure> {
        Ok("floor: plain HTTP by monoio, out of memory".to_owned())
    }

    fn unable(&self, demand: Demand) -> Option<&'static str> {
        (demand.service != Service::Files || demand.streams > 1)
            .then_some("plain HTTP/1.1 of files only, one request at a time")
    }

    fn is_plain(&self) -> bool {
        true
    }

    fn command(&self, site: &Site) -> Result<Command, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["floor", "--address", &site.address.to_string(), "--root"])
            .arg(&site.root);
        Ok(command)
    }
}

/// Serves until it is ended.
pub(crate) fn serve(order: &FloorOrder) -> Result<(), Failure> {
    let mut answers = Vec::new();
    for file in FILES {
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\
             \r\n",
            file.bytes
        )
        .into_bytes();
        answer.extend(fs::read(order.root.join(file.name))?);
        answers.push((format!("GET /{} ", file.name).into_bytes(), answer));
    }
    // For the ring's own time, which is the process's.
    let answers: &'static Answers = Box::leak(answers.into_boxed_slice());
    let mut ring = io_uring::IoUring::builder();
    ring.setup_single_issuer()
        .setup_coop_taskrun()
        .setup_defer_taskrun();
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
        .uring_builder(ring)
        .build()
        .map_err(|error| format!("no io_uring here (Linux 6.1): {error}"))?;
    runtime.block_on(async {
        let listener = TcpListener::bind(order.address)?;
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            monoio::spawn(async move { drop(converse(socket, answers).await) });
        }
    })
}

/// Heads and bodies, by the beginning of a request for each.
type Answers = [(Vec<u8>, Vec<u8>)];

async fn converse(mut socket: TcpStream, answers: &'static Answers) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(REQUEST_BYTES_MAX);
    loop {
        let (result, received) = socket.read(buffer).await;
        if result? == 0 {
            return Ok(());
        }
        let (_, answer) = answers
            .iter()
            .find(|(beginning, _)| received.starts_with(beginning))
            .filter(|_| received.ends_with(b"\r\n\r\n"))
            .ok_or(ErrorKind::InvalidData)?;
        let (result, _) = socket.write_all(answer.as_slice()).await;
        result?;
        buffer = received;
    }
}

pub(crate) const NAME: &str = "floor";

const REQUEST_BYTES_MAX: usize = 4096;
