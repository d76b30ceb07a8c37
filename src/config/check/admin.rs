//! `[admin]`: an address that only this machine reaches, unless its owner says otherwise.

use std::net::SocketAddr;

use toml::Spanned;

use super::Checker;
use crate::config::raw::RawAdmin;
use crate::config::{Admin, AdminAddress};

impl Checker<'_> {
    pub(super) fn admin(&mut self, raw: RawAdmin) -> Option<Admin> {
        let allow_remote_written = raw.allow_remote.as_ref().map(Spanned::span);
        let allow_remote = raw.allow_remote.is_some_and(Spanned::into_inner);
        let Some(text) = raw.address else {
            if let Some(span) = allow_remote_written {
                self.problem(
                    span,
                    "`allow_remote` without an `address`",
                    "add address = \"127.0.0.1:9443\", or remove `allow_remote`",
                );
            }
            return None;
        };
        let address = self.admin_address(&text)?;
        if let AdminAddress::Tcp(tcp) = &address
            && !tcp.ip().to_canonical().is_loopback()
            && !allow_remote
        {
            self.problem(
                text.span(),
                format!("other machines reach the admin listener at {tcp}"),
                "write a loopback address such as \"127.0.0.1:9443\", or \"unix:admin.sock\"; it \
                 speaks without TLS and asks for no password: where a firewall guards it, add \
                 allow_remote = true",
            );
        }
        Some(Admin {
            address,
            allow_remote,
        })
    }

    fn admin_address(&mut self, text: &Spanned<String>) -> Option<AdminAddress> {
        let written = text.get_ref();
        if let Some(path) = written.strip_prefix("unix:") {
            let path_bytes = self.base.join(path).as_os_str().len();
            if !path.is_empty() && !path.contains('\0') && path_bytes <= UNIX_PATH_BYTES_MAX {
                return Some(AdminAddress::Unix(self.base.join(path)));
            }
            self.problem(
                text.span(),
                format!("{written:?} is no path of a socket"),
                format!("write one of at most {UNIX_PATH_BYTES_MAX} bytes, as \"unix:admin.sock\""),
            );
            return None;
        }
        let address = written.parse::<SocketAddr>();
        if address.is_err() {
            self.problem(
                text.span(),
                format!("{written:?} is no address of an admin listener"),
                "write an IP address and a port, as \"127.0.0.1:9443\", or \"unix:\" and a path",
            );
        }
        address.ok().map(AdminAddress::Tcp)
    }
}

/// sun_path without its terminating zero (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;
