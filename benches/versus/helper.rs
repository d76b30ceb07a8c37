//! This program as its own client: a second process on the load's core (see [`crate::client`]).

use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroU32;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use clap::ValueEnum;
use serde::de::DeserializeOwned;

use crate::Failure;
use crate::arguments::{BackendOrder, ConnectOrder, CryptoOrder, DriveOrder, Endpoint, HoldOrder};
use crate::client::READY;
use crate::servers::pinned;

/// A client process; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Helper {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Helper {
    /// Starts a client and waits until its warm-up is over.
    pub(crate) fn connect(order: &ConnectOrder, cpu: usize) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("connect");
        add(&mut command, &order.endpoint)?;
        let numbers = [
            ("--clients", order.clients),
            ("--warm-up", order.warm_up),
            ("--connections", order.connections),
        ];
        for (name, number) in numbers {
            command.arg(name).arg(number.to_string());
        }
        if order.resume {
            command.arg("--resume");
        }
        Self::start(&command, cpu)
    }

    /// Starts a client and waits until its connections are open.
    pub(crate) fn hold(order: &HoldOrder, cpu: usize) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("hold");
        add(&mut command, &order.endpoint)?;
        command
            .arg("--connections")
            .arg(order.connections.to_string());
        Self::start(&command, cpu)
    }

    /// Starts the backend.
    pub(crate) fn backend(order: &BackendOrder, cpu: usize) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("backend").arg("--root").arg(&order.root);
        Self::start(&command, cpu)
    }

    /// Starts a client and waits until its connections are open.
    pub(crate) fn drive(order: &DriveOrder, cpu: usize) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("drive");
        add(&mut command, &order.endpoint)?;
        let numbers = [
            ("--connections", Some(order.connections)),
            ("--at-once", Some(order.at_once)),
            ("--streams", order.streams.map(NonZeroU32::get)),
            ("--rate", order.rate.map(NonZeroU32::get)),
            ("--seconds", Some(order.seconds)),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                command.arg(name).arg(number.to_string());
            }
        }
        Self::start(&command, cpu)
    }

    /// Starts what measures cryptography.
    pub(crate) fn crypto(order: &CryptoOrder, cpu: usize) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["crypto", "--bytes", &order.bytes.to_string()]);
        if order.exchange {
            command.arg("--exchange");
        }
        if let Some(key) = order.sign {
            command.arg("--sign").arg(name_of(&key)?);
        }
        Self::start(&command, cpu)
    }

    /// Lets the client go on, and waits for its report.
    pub(crate) fn proceed<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        self.go_on()?;
        Ok(serde_json::from_str(&self.answer()?)?)
    }

    /// Lets the client go on.
    pub(crate) fn go_on(&mut self) -> Result<(), Failure> {
        Ok(writeln!(self.orders)?)
    }

    /// Waits until it says `line`.
    pub(crate) fn expect(&mut self, line: &str) -> Result<(), Failure> {
        let said = self.answer()?;
        if said != line {
            return Err(format!("a client said {said:?} where {line:?} was due").into());
        }
        Ok(())
    }

    fn start(command: &Command, cpu: usize) -> Result<Self, Failure> {
        let mut child = pinned(command, cpu)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start a client: {error}"))?;
        let orders = child
            .stdin
            .take()
            .ok_or("a client without standard input")?;
        let answers = child
            .stdout
            .take()
            .ok_or("a client without standard output")?;
        let mut helper = Self {
            child,
            orders,
            answers: BufReader::new(answers),
        };
        helper.expect(READY)?;
        Ok(helper)
    }

    /// One line; a client that fails has said why on standard error.
    pub(crate) fn answer(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(format!("the client failed: {}", self.child.wait()?).into());
        }
        Ok(line.trim().to_owned())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn add(command: &mut Command, endpoint: &Endpoint) -> Result<(), Failure> {
    command
        .arg("--address")
        .arg(endpoint.address.to_string())
        .arg("--certificate")
        .arg(Path::new(&endpoint.certificate))
        .arg("--key")
        .arg(name_of(&endpoint.key)?)
        .arg("--version")
        .arg(name_of(&endpoint.version)?)
        .arg("--path")
        .arg(&endpoint.path)
        .arg("--bytes")
        .arg(endpoint.bytes.to_string());
    Ok(())
}

/// The value as the command line has it.
fn name_of(value: &impl ValueEnum) -> Result<String, Failure> {
    let value = value.to_possible_value().ok_or("a hidden value")?;
    Ok(value.get_name().to_owned())
}
